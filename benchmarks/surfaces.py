"""Surface measures beside MONAI, surface-distance, scikit-image and the plain form of two distance transforms of the whole volume.

    python benchmarks/surfaces.py [--side 256] [--rounds 3] [--spacing 1 1 1]

Pictures: thin structures (winding lines, one part of them shifted or missing) and solid bodies. Every way gets the same masks and
must give the same numbers. Each runs `--rounds` times, in turn, and the fastest run counts. Seconds are CPU-seconds of all threads,
which other work on the machine changes least. Compares with `monai`, `surface-distance` and `SimpleITK`, which evaluation does without;
a way whose library is missing is left out.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from nnunet_neuro import surfaces
from nnunet_neuro.evaluate import measures
from nnunet_neuro.evaluate.measures import Masks

PLAIN = "plain scipy"
Way = Callable[[np.ndarray, np.ndarray], dict[str, float]]


def main() -> None:
    """Make the pictures, time the ways, print CPU-seconds, ratios and the largest difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--spacing", type=float, nargs=3, default=(1.0, 1.0, 1.0))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # surface-distance asks SciPy for names of older versions
    spacing = tuple(arguments.spacing)
    pictures = {"thin lines": _lines(arguments.side), "solid bodies": _bodies(arguments.side)}
    for picture, (prediction, reference) in pictures.items():
        print(f"{picture}: {arguments.side}^3 voxels of {spacing}, {reference.mean():.2%} of them reference, best of {arguments.rounds}")
        for task, ways in _tasks(spacing).items():
            seconds, found = _timed(ways, prediction, reference, arguments.rounds)
            for way, taken in seconds.items():
                off = max(abs(found[way][name] / found[PLAIN][name] - 1) for name in found[way])
                print(f"  {task:<22}{way:<28}{taken:8.2f} s {seconds[PLAIN] / taken:7.1f} x {PLAIN}   numbers differ by {off:.0e}")
    _tree_or_transform(arguments.rounds)


def _tasks(spacing: tuple[float, ...]) -> dict[str, dict[str, Way]]:
    tolerance = 2.02 * min(spacing)  # not a distance between voxels, which libraries round either way
    tasks = {
        "HD, HD95, ASSD, MASD": {PLAIN: _plain_borders, "nnunet_neuro": _ours("HD", "HD95", "ASSD", "MASD"), "MONAI": _monai_borders},
        "NSD": {PLAIN: _plain_elements, "nnunet_neuro": _ours("NSD"), "surface-distance": _surface_distance, "MONAI": _monai_elements},
        "AHD, HD_voxels": {PLAIN: _plain_voxels, "nnunet_neuro": _ours("AHD", "HD_voxels"), "SimpleITK": _simpleitk},
    }
    if len(set(spacing)) == 1:  # its `hausdorff_distance` knows no voxel size
        tasks["AHD, HD_voxels"]["scikit-image (HD only)"] = _scikit_image
    needs = {"MONAI": "monai", "surface-distance": "surface_distance", "SimpleITK": "SimpleITK"}
    return {
        task: {way: _bound(function, spacing, tolerance) for way, function in ways.items() if find_spec(needs.get(way, "numpy"))}
        for task, ways in tasks.items()
    }


def _bound(function: Callable, spacing: tuple[float, ...], tolerance: float) -> Way:
    return lambda prediction, reference: function(prediction, reference, spacing, tolerance)


def _timed(ways: dict[str, Way], prediction: np.ndarray, reference: np.ndarray, rounds: int) -> tuple[dict, dict]:
    seconds, found = dict.fromkeys(ways, math.inf), {}
    for way in ways.values():
        way(*_bodies(16))  # imports and tables are made once
    for _ in tqdm(range(rounds), leave=False):
        for name, way in ways.items():
            begun = time.process_time()
            found[name] = way(prediction, reference)
            seconds[name] = min(seconds[name], time.process_time() - begun)
    return seconds, found


def _ours(*names: str) -> Callable:
    chosen = {name: measures.MEASURES[name] for name in names}
    step = chosen[names[0]].counts

    def way(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...], tolerance: float) -> dict[str, float]:
        counts = step(Masks(prediction, reference, np.ones_like(reference), tolerance, spacing))
        return {name: one.formula(counts) for name, one in chosen.items()}

    return way


def _plain_borders(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...], _: float) -> dict[str, float]:
    borders = [mask & ~ndimage.binary_erosion(mask) for mask in (prediction, reference)]
    first, second = _both_ways(*borders, spacing)
    both = np.concatenate([first, second])
    percentile = max(np.percentile(one, 95) for one in (first, second))
    return {"HD": both.max(), "HD95": percentile, "ASSD": both.mean(), "MASD": (first.mean() + second.mean()) / 2}


def _plain_voxels(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...], _: float) -> dict[str, float]:
    first, second = _both_ways(prediction, reference, spacing)
    return {"AHD": (first.mean() + second.mean()) / 2, "HD_voxels": max(first.max(), second.max())}


def _plain_elements(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...], tolerance: float) -> dict[str, float]:
    """Codes by correlation and distances by transforms of the whole volume; areas from this project, as no other table is at hand."""
    kernel, codes = 2 ** np.arange(8).reshape(2, 2, 2), []
    for mask in (prediction, reference):
        codes.append(ndimage.correlate(np.pad(mask, 1).astype(np.uint8), kernel, mode="constant"))
    elements = [(code > 0) & (code < 255) for code in codes]
    distances = _both_ways(*elements, spacing)
    areas = [surfaces.element_areas(spacing)[code[element]] for code, element in zip(codes, elements, strict=True)]
    near = sum(area[distance <= tolerance].sum() for area, distance in zip(areas, distances, strict=True))
    return {"NSD": near / sum(area.sum() for area in areas)}


def _both_ways(first: np.ndarray, second: np.ndarray, spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    return (ndimage.distance_transform_edt(~second, sampling=spacing)[first],
            ndimage.distance_transform_edt(~first, sampling=spacing)[second])


def _monai_borders(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...], _: float) -> dict[str, float]:
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    masks, options = _one_hot(prediction, reference), {"include_background": False, "spacing": spacing}
    return {
        "HD": float(compute_hausdorff_distance(*masks, **options)),
        "HD95": float(compute_hausdorff_distance(*masks, percentile=95, **options)),
        "ASSD": float(compute_average_surface_distance(*masks, symmetric=True, **options)),
    }


def _monai_elements(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...], tolerance: float) -> dict[str, float]:
    from monai.metrics import compute_surface_dice

    return {"NSD": float(compute_surface_dice(*_one_hot(prediction, reference), class_thresholds=[tolerance], spacing=spacing,
                                              use_subvoxels=True))}


def _one_hot(*masks: np.ndarray) -> list:
    import torch

    return [torch.from_numpy(np.stack([~mask, mask])[None]) for mask in masks]


def _surface_distance(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...], tolerance: float) -> dict[str, float]:
    from surface_distance.metrics import compute_surface_dice_at_tolerance, compute_surface_distances

    return {"NSD": compute_surface_dice_at_tolerance(compute_surface_distances(reference, prediction, spacing), tolerance)}


def _scikit_image(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...], _: float) -> dict[str, float]:
    from skimage.metrics import hausdorff_distance

    return {"HD_voxels": hausdorff_distance(prediction, reference) * spacing[0]}


def _simpleitk(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...], _: float) -> dict[str, float]:
    import SimpleITK as sitk

    images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in (prediction, reference)]
    for image in images:
        image.SetSpacing(spacing[::-1])
    filter_ = sitk.HausdorffDistanceImageFilter()
    filter_.Execute(*images)
    return {"AHD": filter_.GetAverageHausdorffDistance(), "HD_voxels": filter_.GetHausdorffDistance()}


def _tree_or_transform(rounds: int) -> None:
    """Where the distance transform begins to pay: random points, from dense to sparse."""
    print("k-d tree against distance transform, by the voxels of the box for each point")
    for share in (0.5, 0.3, 0.2, 0.1, 0.05, 0.02):
        points, targets = (np.argwhere(np.random.default_rng(seed).random((100,) * 3) < share) for seed in (0, 1))
        seconds = {}
        for name, limit in (("tree", 0), ("transform", math.inf)):
            surfaces._TRANSFORM_PAYS_BELOW = limit
            runs = []
            for _ in range(rounds):
                begun = time.process_time()
                surfaces.squared_distances(points, targets, (1.0, 1.0, 1.0))
                runs.append(time.process_time() - begun)
            seconds[name] = min(runs)
        print(f"  {1 / share:5.0f} voxels a point: tree {seconds['tree']:.3f} s, transform {seconds['transform']:.3f} s")


def _lines(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Winding lines about three voxels thick; the prediction lacks some, has others, and a part of it is one voxel off."""
    generator = np.random.default_rng(0)
    drawn = []
    for _ in range(3):
        mask = np.zeros((side,) * 3, bool)
        for _ in range(max(1, side // 16)):
            way = np.cumsum(ndimage.gaussian_filter1d(generator.normal(size=(4 * side, 3)), 12, axis=0) * 5, axis=0)
            points = np.round(generator.random(3) * side + way).astype(int)
            mask[tuple(points[((points >= 1) & (points < side - 1)).all(axis=1)].T)] = True
        drawn.append(ndimage.binary_dilation(mask))
    common, missed, invented = drawn
    shifted = np.concatenate([np.roll(common[: side // 3], 1, axis=1), common[side // 3 :]])
    return shifted | (invented & (np.arange(side) < side // 4)), common | (missed & (np.arange(side) < side // 4))


def _bodies(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth bodies of a tenth of the volume, and the same grown and worn off at random."""
    generator = np.random.default_rng(1)
    smooth, other = (ndimage.gaussian_filter(generator.normal(size=(side,) * 3).astype(np.float32), side / 25) for _ in range(2))
    changed = smooth + 0.2 * other
    return changed > np.quantile(changed, 0.9), smooth > np.quantile(smooth, 0.9)


if __name__ == "__main__":
    main()
