"""One picture of a whole prediction: planes in three directions and maximum projections, with the labels over the image.

Read in bounded memory: of the image every n-th plane and pixel, of the labels a level of the pyramid.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnunet_neuro.colours import class_colour
from nnunet_neuro.predict.complete import appearing, leftovers_beside, remove
from nnunet_neuro.predict.output import INSTANCES
from nnunet_neuro.predict.pyramid import build_pyramid
from nnunet_neuro.predict.store import LabelStore
from nnunet_neuro.volumes import Volume

_MOST_PLANES, _MOST_PIXELS = 128, 640  # of the image that are kept
_MOST_LABELS = 64_000_000
_BAND_BYTES = 64_000_000  # of a plane that is read at once
_DIRECTIONS = ("z", "y", "x")
_COLUMNS = 3
_MOST_NAMES = 20


def write_preview(image: Volume, store: LabelStore, path: str | Path, *, progress: bool = True) -> Path:
    """Draw a PNG; missing levels of the pyramid are made first.

    Each direction is shown at the plane with most foreground in every third of its axis.

    Args:
        image: (z, y, x) of the shape of the labels, see `Volume.crop`.
        store: all chunks of its labels are written.
        path: of the PNG; replaced where it is there.
        progress: show progress bars on stderr.

    Returns:
        The path.

    Raises:
        ValueError: another shape, or labels that are not complete.
    """
    path = Path(path)
    if image.shape != store.layout.shape:
        raise ValueError(f"{image.path} has shape {image.shape}, but the prediction {store.path} has {store.layout.shape}; give the image "
                         "that it was made from")
    build_pyramid(store, progress=progress)
    if _has_instances(store):
        build_pyramid(store, INSTANCES, progress=progress)
    labels = _coarse_labels(store)
    figure = _draw(sampled(image, (_MOST_PLANES, _MOST_PIXELS, _MOST_PIXELS), progress=progress), labels, store)
    for leftover in leftovers_beside(path):
        remove(leftover)
    path.unlink(missing_ok=True)
    with appearing(path) as unfinished:
        figure.savefig(unfinished, format="png", metadata={"Software": None})
    return path


def sampled(image: Volume, most: Sequence[int], *, progress: bool = True) -> np.ndarray:
    """Every n-th voxel along each axis, with the smallest n that leave at most `most` voxels; read plane by plane, in bands of rows."""
    from tqdm import tqdm

    z_step, y_step, x_step = (math.ceil(length / longest) for length, longest in zip(image.shape, most))
    planes, height, width = image.shape
    rows = max(1, _BAND_BYTES // (width * image.dtype.itemsize) // y_step) * y_step
    kept = np.empty(tuple(-(-length // step) for length, step in zip(image.shape, (z_step, y_step, x_step))), image.dtype)
    for number, z in enumerate(tqdm(range(0, planes, z_step), "drawing", unit="plane", disable=not progress, file=sys.stderr)):
        for first in range(0, height, rows):
            band = image.read((slice(z, z + 1), slice(first, min(first + rows, height)), slice(0, width)))[0, ::y_step, ::x_step]
            kept[number, first // y_step: first // y_step + len(band)] = band
    return kept


def _coarse_labels(store: LabelStore) -> np.ndarray:
    """The finest level that is small enough; where there are instances, of their voxels only: small ones may have been left out."""
    levels = [store.volumes(level=level)[0] for level in range(len(store.spacings()))]
    level = next((number for number, volume in enumerate(levels) if math.prod(volume.shape) <= _MOST_LABELS), len(levels) - 1)
    labels = levels[level].read()
    return np.where(store.volumes(INSTANCES, level=level)[0].read() != 0, labels, 0) if _has_instances(store) else labels


def _has_instances(store: LabelStore) -> bool:
    return any(one.name == INSTANCES for one in store.layout.further)


def _draw(image: np.ndarray, labels: np.ndarray, store: LabelStore):
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    layout = store.layout
    extents = [length * size for length, size in zip(layout.shape, layout.voxel)]
    colours = {value: class_colour(index) for index, value in enumerate(_classes(labels, store).values())}
    window = _window(image)
    heights = [float(np.clip(high / wide, 0.15, 2.0)) for high, wide in (_sides(extents, axis) for axis in (0, 1, 2, 0))]
    figure = Figure(figsize=(4 * _COLUMNS, sum(4 * height + 0.3 for height in heights) + 0.5), dpi=100, layout="constrained")
    rows = figure.subplots(len(heights), _COLUMNS, gridspec_kw={"height_ratios": heights})
    for axis, row in enumerate(rows[:3]):
        for ax, share in zip(row, _fullest_shares(labels != 0, axis)):
            plane, over = (np.take(array, min(int(share * array.shape[axis]), array.shape[axis] - 1), axis) for array in (image, labels))
            number = int(share * layout.shape[axis])
            _show(ax, plane, over, colours, window, _sides(extents, axis), f"{_DIRECTIONS[axis]} = {number}")
    step = math.ceil(layout.shape[0] / _MOST_PLANES)
    which = "z" if step == 1 else f"every {step}. z"
    projection, over = image.max(axis=0), labels.max(axis=0)
    what = "objects" if _has_instances(store) else "labels"
    bright = _window(projection)
    _show(rows[3][0], projection, None, colours, bright, _sides(extents, 0), f"image, maximum over {which}")
    _show(rows[3][1], projection, over, colours, bright, _sides(extents, 0), f"{what} over it, maximum over z")
    _show(rows[3][2], np.zeros_like(projection), over, colours, (0.0, 1.0), _sides(extents, 0), f"{what}, maximum over z", opacity=1.0)
    handles = [Patch(facecolor=colours[value], label=name) for name, value in _classes(labels, store).items()]
    figure.legend(handles=handles[:_MOST_NAMES], loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    figure.suptitle(f"{store.path.name}: {' x '.join(map(str, layout.shape))} voxels (z, y, x)", fontsize=11)
    return figure


def _classes(labels: np.ndarray, store: LabelStore) -> dict[str, int]:
    """The foreground classes by name; by number where the store does not name them."""
    named = {name: value for name, value in store.layout.classes.items() if value}
    return named or {f"label {value}": int(value) for value in np.unique(labels[labels != 0])}


def _fullest_shares(foreground: np.ndarray, axis: int) -> list[float]:
    """Where along an axis, from 0 to 1, the plane with most foreground of each third lies."""
    counts = np.count_nonzero(foreground, axis=tuple(other for other in range(3) if other != axis))
    bounds = [round(third * len(counts) / _COLUMNS) for third in range(_COLUMNS + 1)]
    places = []
    for first, last in zip(bounds, bounds[1:]):
        part = counts[first:max(last, first + 1)]
        place = first + (int(part.argmax()) if part.any() else len(part) // 2)
        places.append((min(place, len(counts) - 1) + 0.5) / len(counts))
    return places


def _sides(extents: Sequence[float], axis: int) -> tuple[float, float]:
    """Height and width of a plane across an axis."""
    high, wide = [extent for other, extent in enumerate(extents) if other != axis]
    return high, wide


def _window(image: np.ndarray) -> tuple[float, float]:
    """What is shown black and white."""
    finite = image[np.isfinite(image)] if image.dtype.kind == "f" else image
    low, high = np.percentile(finite, (0.5, 99.8)) if finite.size else (0.0, 1.0)
    return float(low), float(max(high, low + 1e-6))


def _show(ax, plane: np.ndarray, labels: np.ndarray | None, colours: dict[int, str], window: tuple[float, float],
          sides: tuple[float, float], title: str, *, opacity: float = 0.6) -> None:
    from matplotlib.colors import to_rgba

    # both lie in the same physical rectangle, whatever their resolution
    extent = (0, sides[1], sides[0], 0)
    ax.imshow(plane.astype(np.float32), cmap="gray", vmin=window[0], vmax=window[1], extent=extent)
    if labels is not None:
        over = np.zeros((*labels.shape, 4), np.float32)
        for value, colour in colours.items():
            over[labels == value] = to_rgba(colour, opacity)
        ax.imshow(over, interpolation="nearest", extent=extent)
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=9)
