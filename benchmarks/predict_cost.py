"""Measures 2 to 6 of `predict.py`: memory, CPU time, what is not the network, chunks decoded, background."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from predict_models import BenchModel, GeneratedVolume, ModelPlan, blobs, planned_features, write_tiff
from predict_process import Cost, labels_of_tiff, labels_of_zarr
from predict_rows import NOT_THERE, ROOM, Bench, Row, gigabytes, parts_text, percent, shape_text

_PATCH = (64, 64, 64)
_CHUNK = 64


def measure_memory(bench: Bench) -> Iterator[Row]:
    """A cheap network and few windows: neither the size of the network nor that of the step makes a difference that grows."""
    model = bench.model(931, ModelPlan(_PATCH, (2, 4), 1))
    peaks: dict[str, list[int]] = {"stock": [], "ours": []}
    for edge in bench.sizes.memory_cubes:
        images = bench.image(edge)
        stock, ours = _both(bench, model, images, stock_options=("-step_size", "1"), options=("--step", "1"))
        peaks["stock"].append(stock.peak_bytes)
        peaks["ours"].append(ours.peak_bytes)
        yield Row(2, f"peak memory at {shape_text((edge,) * 3)}, --memory {bench.memory}", gigabytes(stock.peak_bytes),
                  gigabytes(ours.peak_bytes))
    small, large = bench.sizes.memory_cubes
    growth = {name: values[1] / values[0] for name, values in peaks.items()}
    yield Row(2, f"peak at {large}^3 over that at {small}^3", f"{growth['stock']:.2f}", f"{growth['ours']:.2f}", "at most 1.15",
              growth["ours"] <= 1.15)
    ratio = peaks["ours"][1] / peaks["stock"][1]
    yield Row(2, f"peak at {large}^3 over stock's", "1", f"{ratio:.2f}", "at most 0.30", ratio <= 0.3)


def measure_cpu(bench: Bench) -> Iterator[Row]:
    """Stock, exact and fast mode in turn, so that whatever else the machine does falls on all alike."""
    sizes = bench.sizes
    model = _trained(bench, sizes.cost_features)
    images = bench.image(sizes.cost_cube)
    cpu: dict[str, list[float]] = {"stock": [], "exact": [], "fast": []}
    for _ in range(sizes.repeats):
        stock_output, exact_output, fast_output = bench.fresh("stock"), bench.fresh("exact.zarr"), bench.fresh("fast.zarr")
        cpu["stock"].append(bench.runner.stock(model, images, stock_output)[0].cpu_seconds)
        inputs = sorted(images.glob("*.tif"))
        cpu["exact"].append(bench.runner.ours(model, inputs, exact_output, "--memory", ROOM)[0].cpu_seconds)
        cpu["fast"].append(bench.runner.ours(model, inputs, fast_output, "--memory", ROOM, "--fast")[0].cpu_seconds)
    alone = bench.runner.stock(model, images, bench.fresh("alone"), "-npp", "0", "-nps", "0")[0].cpu_seconds
    exact, fast = labels_of_zarr(exact_output), labels_of_zarr(fast_output)
    differing = np.count_nonzero(exact != labels_of_tiff(stock_output / "cube.tif"))
    what = f"CPU-seconds at {shape_text((sizes.cost_cube,) * 3)}, network of {sizes.cost_features} features, no mirroring"
    for name, goal in (("exact", 0.75), ("fast", 0.45)):
        ratios = [one / stock for one, stock in zip(cpu[name], cpu["stock"])]
        ratio = statistics.median(ratios)
        spread = f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else ""
        yield Row(3, f"{what}, {name} mode", f"{statistics.median(cpu['stock']):.0f} s",
                  f"{statistics.median(cpu[name]):.0f} s, {ratio:.2f} of stock's{spread}", f"at most {goal}", ratio <= goal)
    yield Row(3, "the same; nnU-Net in one process, which imports once", f"{alone:.0f} s", ", ".join(
        f"{name} {statistics.median(cpu[name]) / alone:.2f} of it" for name in ("exact", "fast")))
    yield Row(3, "Dice of fast to exact mode, class by class", f"exact mode differs at {differing} voxels",
              ", ".join(f"{label}: {_dice(exact == label, fast == label):.3f}" for label in np.unique(exact) if label))


def measure_share(bench: Bench) -> Iterator[Row]:
    """By the clock, from when everything is imported; nnU-Net's own processes import once more, which is its way to work."""
    sizes = bench.sizes
    model = bench.model(932, ModelPlan(_PATCH, planned_features(sizes.share_features)))
    images = bench.image(sizes.share_cube)
    inputs = sorted(images.glob("*.tif"))
    reports = (bench.runner.stock(model, images, bench.fresh("stock"), clocked=True)[1],
               bench.runner.ours(model, inputs, bench.fresh("ours.zarr"), "--memory", ROOM, clocked=True)[1])
    outside = [1 - report["parts"]["network"]["seconds"] / report["seconds"] for report in reports]
    yield Row(4, f"time outside the network at {shape_text((sizes.share_cube,) * 3)}, network of {sizes.share_features} features",
              f"{percent(outside[0])} of {reports[0]['seconds']:.0f} s", f"{percent(outside[1])} of {reports[1]['seconds']:.0f} s",
              "at most 5 %", outside[1] <= 0.05)
    yield Row(4, "parts of it", NOT_THERE, parts_text(reports[1]))
    per_voxel = [1e6 * share * report["seconds"] / sizes.share_cube**3 for share, report in zip(outside, reports)]
    yield Row(4, "microseconds per voxel outside the network", *(f"{one:.2f}" for one in per_voxel))


def measure_decoding(bench: Bench) -> Iterator[Row]:
    """Of a Zarr input with chunks of 64; a plan that needs no first pass, then one whose z-score needs the mean of the whole."""
    edge = bench.sizes.decode_cube
    stored = _zarr(bench.folder / f"image_{edge}.zarr", GeneratedVolume((edge,) * 3))
    for number, norm, name in ((933, "CTNormalization", "plan with the data set's own statistics"),
                               (934, "ZScoreNormalization", "z-score plan, first pass over the volume included")):
        model = bench.model(number, ModelPlan(_PATCH, (2, 4), 1, (norm,)))
        report = bench.runner.ours(model, [stored], bench.fresh("ours.zarr"), "--memory", ROOM, clocked=True)[1]
        times, first = (report[key] / (2 * edge**3) for key in ("decoded_bytes", "decoded_bytes_in_first_pass"))
        yield Row(5, f"bytes decoded over bytes of the volume, {name}, {shape_text((edge,) * 3)}", "1 (all of it in memory)",
                  f"{times:.2f}, {first:.2f} of it in the first pass", "at most 1.3", times <= 1.3)


def measure_skipping(bench: Bench) -> Iterator[Row]:
    """Tissue along one edge and at the opposite corner of a cube; the rest is 0."""
    from nnunet_neuro.predict.windows import window_starts

    edge = bench.sizes.skip_cube
    model = _trained(bench, bench.sizes.skip_features)
    image = blobs((edge,) * 3, seed=2)[0]
    tissue = np.zeros(image.shape, bool)
    tissue[: edge // 4, : edge // 4] = tissue[-edge // 6:, -edge // 6:, -edge // 6:] = True
    image[~tissue] = 0
    folder = bench.fresh("image")
    inputs = write_tiff(folder, "cube", [image])
    outputs, seconds, cpu = {}, {}, {}
    for name, options in (("all", ()), ("skipped", ("--background", "0"))):
        output = bench.fresh(f"{name}.zarr")
        cost, report = bench.runner.ours(model, inputs, output, "--memory", ROOM, *options, clocked=True)
        outputs[name], seconds[name], cpu[name] = labels_of_zarr(output), report["parts"]["blocks"]["cpu_seconds"], cost.cpu_seconds
        summary = json.loads(output.with_name(f"{output.name.removesuffix('.zarr')}.summary.json").read_text())
    starts = window_starts(edge, _PATCH[0], 0.5)
    windows = [tuple(slice(first, first + _PATCH[0]) for first in (z, y, x)) for z in starts for y in starts for x in starts]
    empty = [window for window in windows if not image[window].any()]
    untouched = np.ones(image.shape, bool)
    for window in empty:
        untouched[window] = False
    share, ratio = 1 - len(empty) / len(windows), seconds["skipped"] / seconds["all"]
    stock = bench.fresh("stock")
    stock_cost = bench.runner.stock(model, folder, stock)[0]
    yield Row(6, f"CPU time of blocks with empty windows skipped over that without, {shape_text((edge,) * 3)}, {percent(share)} of "
              f"{len(windows)} windows not empty", f"{stock_cost.cpu_seconds:.0f} s, whole program",
              f"{ratio:.3f}: {seconds['skipped']:.1f} of {seconds['all']:.1f} s; {summary['windows_skipped']} windows skipped",
              f"at most {1.2 * share:.3f}", ratio <= 1.2 * share and summary["windows_skipped"] == len(empty))
    yield Row(6, "the same, whole program", NOT_THERE, f"{cpu['skipped'] / cpu['all']:.3f}: {cpu['skipped']:.1f} of {cpu['all']:.1f} s")
    changed = outputs["all"] != outputs["skipped"]
    yield Row(6, f"voxels changed outside skipped windows; {untouched.sum():,} voxels lie there",
              f"{np.count_nonzero(labels_of_tiff(stock / 'cube.tif') != outputs['all'])} differ from ours without skipping",
              f"{np.count_nonzero(changed & untouched)}; {percent(np.mean(changed[~untouched]))} of the others", "0",
              not (changed & untouched).any() and untouched.any())
    shutil.rmtree(folder)


def _both(bench: Bench, model: BenchModel, images: Path, *, stock_options: tuple[str, ...], options: tuple[str, ...]) -> tuple[Cost, Cost]:
    outputs = bench.fresh("stock"), bench.fresh("ours.zarr")
    costs = (bench.runner.stock(model, images, outputs[0], *stock_options)[0],
             bench.runner.ours(model, sorted(images.glob("*.tif")), outputs[1], "--memory", bench.memory, *options)[0])
    for output in outputs:
        shutil.rmtree(output)
    return costs


def _trained(bench: Bench, features: int) -> BenchModel:
    return bench.model(940 + features, ModelPlan(_PATCH, planned_features(features)), train_steps=bench.sizes.train_steps)


def _zarr(path: Path, volume: GeneratedVolume) -> Path:
    """Compressed by LZ4, so that `predict_clock.py` tells its chunks from those of an output."""
    import zarr
    from numcodecs import LZ4

    if not path.is_dir():
        version = {} if zarr.__version__.startswith("2.") else {"zarr_format": 2}
        array = zarr.create(volume.shape, chunks=(_CHUNK,) * 3, dtype="uint16", compressor=LZ4(), store=str(path), **version)
        for z in range(0, volume.shape[0], _CHUNK):
            array[z:z + _CHUNK] = volume[(slice(z, z + _CHUNK), slice(None), slice(None))]
    return path


def _dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * np.count_nonzero(first & second) / max(1, np.count_nonzero(first) + np.count_nonzero(second))
