"""Measure 1 of `predict.py`: labels that differ from nnU-Net's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import numpy as np
from predict_models import BenchModel, ModelPlan, blobs, write_tiff
from predict_process import labels_of_tiff, labels_of_zarr, ours_arguments
from predict_rows import Bench, Row, shape_text

_PATCH, _FLAT = (32, 40, 36), (48, 40)
_TINY = (4, 6, 8)
# smaller than the patch, smaller along one axis, the patch itself, two planes, odd and even, flat and long ones
_SHAPES = ((9, 11, 13), (40, 13, 50), (32, 40, 36), (2, 48, 52), (33, 41, 37), (20, 60, 50), (64, 64, 64), (47, 53, 61), (70, 30, 90),
           (16, 100, 40), (65, 33, 49), (50, 80, 24))
_MODELS = (
    ("3D, 4 channels, two folds, mirrored, regions", ModelPlan(_PATCH, _TINY, 1, ("CTNormalization",) * 4, 2, True, "regions")),
    ("2D, 2 channels, two folds", ModelPlan(_FLAT, _TINY, 1, ("ZScoreNormalization",) * 2, folds=2)),
    ("3D, 1 channel", ModelPlan(_PATCH, _TINY, 1)),
    ("3D, 2 channels, z-score, mirrored", ModelPlan(_PATCH, _TINY, 1, ("ZScoreNormalization",) * 2, mirroring=True)),
    ("3D, 3 channels, two folds", ModelPlan(_PATCH, _TINY, 1, ("RescaleTo01Normalization",) * 3, folds=2)),
    ("3D, 5 channels, mirrored", ModelPlan(_PATCH, _TINY, 1, ("NoNormalization", "CTNormalization", "RescaleTo01Normalization",
                                                              "ZScoreNormalization", "CTNormalization"), mirroring=True)),
    ("2D, 1 channel, mirrored", ModelPlan(_FLAT, _TINY, 1, mirroring=True)),
)
_LARGE = ("3D, 1 channel", ModelPlan((64, 64, 64), _TINY, 1, ("ZScoreNormalization",)))


def measure_exactness(bench: Bench) -> Iterator[Row]:
    """A row for each large cube, then one for each model with all small shapes."""
    model = bench.model(920, _LARGE[1])
    for edge in bench.sizes.exact_cubes:
        yield _compare(bench, model, f"{_LARGE[0]}, z-score, {shape_text((edge,) * 3)}", [(edge,) * 3])
    shapes = _SHAPES[:bench.sizes.exact_shapes]
    for number, (name, plan) in enumerate(_MODELS[:bench.sizes.exact_models]):
        yield _compare(bench, bench.model(910 + number, plan), f"{name}, {len(shapes)} shapes of {shape_text(min(shapes, key=np.prod))} to "
                       f"{shape_text(max(shapes, key=np.prod))}", shapes)


def _compare(bench: Bench, model: BenchModel, name: str, shapes: list[tuple[int, int, int]]) -> Row:
    images, stock, ours = bench.fresh("images"), bench.fresh("stock"), bench.fresh("ours")
    commands = []
    for number, shape in enumerate(shapes):
        channels = [blobs(shape, seed=100 * number + channel)[0] for channel in range(len(model.plan.norms))]
        for image in channels:  # an empty margin, which nnU-Net crops, in every second volume
            image[:, :, : shape[2] // 8 * (number % 2)] = 0
        inputs = write_tiff(images, f"case{number}", channels)
        commands.append(ours_arguments(model, inputs, ours / f"case{number}.zarr", "--memory", bench.memory))
    bench.runner.stock(model, images, stock, "-npp", "1", "-nps", "1")  # labels do not depend on the number of processes
    bench.runner.ours_many(commands)
    differing, voxels, counts = 0, 0, np.zeros(3, np.int64)
    for number in range(len(shapes)):
        expected, found = labels_of_tiff(stock / f"case{number}.tif"), labels_of_zarr(ours / f"case{number}.zarr")
        differing += int(np.count_nonzero(expected != found))
        voxels += expected.size
        counts += np.bincount(expected.reshape(-1), minlength=3)[:3]
    for folder in (images, stock, ours):
        shutil.rmtree(folder)
    shares = ", ".join(f"{label}: {share:.0%}" for label, share in enumerate(counts / voxels))
    return Row(1, f"labels that differ; {name}", f"{voxels:,} voxels; {shares}", f"{differing:,} differ", "0",
               differing == 0 and np.count_nonzero(counts) > 1)
