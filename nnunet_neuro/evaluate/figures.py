"""Figures of the report, as PNG.

Colours are told apart in brightness as well as in hue, so that they survive a colour-blind reader and a grey printer.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nnunet_neuro.colours import UNLABELLED, class_colour
from nnunet_neuro.evaluate.pairing import LabelNames, Pair, as_zyx, as_zyx_shape, read_labels, spacing_zyx
from nnunet_neuro.evaluate.training_log import Epoch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

_EMPTY = "#f7f7f7"
# lightness in CIELAB 78, 50, 34 and 7; the ground has 97
_ERRORS = {"hit": "#8fd0a0", "extra": "#e0218a", "wrong class": "#5b3fa0", "missed": "#14141e"}
_ERROR_MEANING = {
    "hit": "in both",
    "extra": "prediction only",
    "wrong class": "another label",
    "missed": "reference only",
}
_DPI = 110
_WIDTH = 11  # inches


@dataclass(frozen=True)
class Picture:
    """A PNG and what it shows, in words."""

    png: bytes
    alternative: str


def case_picture(pair: Pair, names: LabelNames) -> Picture:
    """One case: the plane with most reference foreground (raw, label, prediction, errors), maximum projections below.

    Unlabelled voxels are hatched. A flat image has no projections; without an image the raw panels are left out.
    """
    prediction, reference = read_labels(pair.prediction, names), read_labels(pair.reference, names)
    image = None if pair.image is None else as_zyx(pair.image.read())
    plane = fullest_plane(reference, prediction, names)
    flat = reference.shape[0] == 1
    figure, rows = _panels(pair, columns=4 if image is not None else 3, rows=1 if flat else 2)
    axes = list(rows[0])
    where = "" if flat else f", plane {plane}"
    if image is not None:
        _show_raw(axes.pop(0), image[plane], f"raw{where}")
    _show_labels(axes.pop(0), reference[plane], names, f"reference{where}")
    _show_labels(axes.pop(0), prediction[plane], names, f"prediction{where}")
    _show_errors(axes.pop(0), prediction[plane], reference[plane], names, f"errors{where}")
    unlabelled = names.ignore is not None and bool((reference == names.ignore).any())
    handles = _legend_handles(names, unlabelled=unlabelled)
    if flat:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5), frameon=False, fontsize=9)
    else:
        axes = list(rows[1])
        if image is not None:
            _show_raw(axes.pop(0), image.max(axis=0), "raw, maximum over z")
        which = "annotated z" if unlabelled else "z"
        _show_labels(axes.pop(0), projected(reference, names), names, f"reference, maximum over {which}")
        _show_labels(axes.pop(0), projected(prediction, names), names, "prediction, maximum over z")
        axes[0].axis("off")
        axes[0].legend(handles=handles, loc="upper left", frameon=False, borderaxespad=0, fontsize=9)
    for ax in rows.flat:
        ax.set_aspect(_pixel_aspect(pair) if ax.images else "auto")
    panels = f"{'raw image, ' if image is not None else ''}reference, prediction and their differences"
    below = "" if flat else "; below, maximum projections over z"
    return Picture(_png(figure), f"Case {pair.case}{where}: {panels}{below}.")


def training_picture(fold: str, epochs: dict[int, Epoch]) -> Picture:
    """Training loss, validation loss and pseudo Dice of one fold over its epochs."""
    from matplotlib.ticker import MaxNLocator

    figure = _figure(10, 3.1)
    losses, dice = figure.subplots(1, 2)
    numbers = list(epochs)
    marker = "o" if len(numbers) < 30 else ""
    losses.plot(numbers, [one.train_loss for one in epochs.values()], "-", marker=marker, ms=3, c="#0072b2", label="training")
    losses.plot(numbers, [one.val_loss for one in epochs.values()], "--", marker=marker, ms=3, c="#d55e00", label="validation")
    losses.set(title="loss", xlabel="epoch")
    classes = max(len(one.pseudo_dice) for one in epochs.values())
    if classes > 1:
        for index in range(classes):
            found = [one.pseudo_dice[index] if index < len(one.pseudo_dice) else np.nan for one in epochs.values()]
            dice.plot(numbers, found, "-", lw=0.8, c="#9a9a9a", label="each class" if index == 0 else None)
    dice.plot(numbers, [one.mean_pseudo_dice for one in epochs.values()], "-", marker=marker, ms=3, c="#1a1a1a", label="mean")
    dice.set(title="pseudo Dice on validation patches", xlabel="epoch", ylim=(0, 1))
    for ax in (losses, dice):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False)
    last = epochs[numbers[-1]]
    return Picture(
        _png(figure),
        f"{fold}: {len(numbers)} epochs; at the end training loss {last.train_loss:.3f}, validation loss "
        f"{last.val_loss:.3f}, mean "
        f"pseudo Dice {last.mean_pseudo_dice:.3f}.",
    )


def fullest_plane(reference: np.ndarray, prediction: np.ndarray, names: LabelNames) -> int:
    """The z plane with most annotated foreground; without any, the one with most predicted, then with most annotated
    voxels.

    Args:
        reference: (z, y, x) integers.
        prediction: (z, y, x) integers.
    """
    annotated = np.ones(reference.shape, bool) if names.ignore is None else reference != names.ignore
    for mask in ((reference != 0) & annotated, (prediction != 0) & annotated, annotated):
        if mask.any():
            return int(np.count_nonzero(mask, axis=(1, 2)).argmax())
    return reference.shape[0] // 2


def projected(labels: np.ndarray, names: LabelNames) -> np.ndarray:
    """Maximum over z of the annotated labels; a column without any annotated voxel keeps the ignore label.

    Args:
        labels: (z, y, x) integers.

    Returns:
        (y, x) integers.
    """
    if names.ignore is None:
        return labels.max(axis=0)
    unlabelled = labels == names.ignore
    return np.where(unlabelled.all(axis=0), names.ignore, np.where(unlabelled, 0, labels).max(axis=0))


def errors(prediction: np.ndarray, reference: np.ndarray, names: LabelNames) -> dict[str, np.ndarray]:
    """Masks of the voxels that are hit, extra, missed, or of the wrong class; unlabelled voxels are in none."""
    annotated = np.ones(reference.shape, bool) if names.ignore is None else reference != names.ignore
    predicted, referenced = (prediction != 0) & annotated, (reference != 0) & annotated
    return {
        "hit": predicted & referenced & (prediction == reference),
        "extra": predicted & ~referenced,
        "missed": referenced & ~predicted,
        "wrong class": predicted & referenced & (prediction != reference),
    }


def _panels(pair: Pair, *, columns: int, rows: int) -> tuple[Figure, np.ndarray]:
    height, width = as_zyx_shape(pair.reference)[1:]
    panel_width = _WIDTH / columns
    panel_height = float(np.clip(panel_width * _pixel_aspect(pair) * height / width, 0.9, 1.6 * panel_width))
    figure = _figure(_WIDTH, rows * (panel_height + 0.3) + (0.35 if rows == 1 else 0))
    figure.get_layout_engine().set(h_pad=0.06, hspace=0.03)
    grid = figure.subplots(rows, columns, squeeze=False)
    for ax in grid.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_color("#999999")
    return figure, grid


def _pixel_aspect(pair: Pair) -> float:
    _, y_size, x_size = spacing_zyx(pair.reference) or spacing_zyx(pair.prediction) or (1.0, 1.0, 1.0)
    return y_size / x_size


def _show_raw(ax: Axes, plane: np.ndarray, title: str) -> None:
    finite = plane[np.isfinite(plane)] if np.issubdtype(plane.dtype, np.inexact) else plane
    low, high = np.percentile(finite, (1, 99.7)) if finite.size else (0, 1)
    _imshow(ax, plane, cmap="gray", vmin=low, vmax=max(high, low + 1e-6))
    ax.set_title(title, fontsize=10)


def _show_labels(ax: Axes, plane: np.ndarray, names: LabelNames, title: str) -> None:
    colours = {label: class_colour(index) for index, label in enumerate(names.classes.values())}
    _paint(ax, {colour: plane == label for label, colour in colours.items()}, _unlabelled(plane, names), title)


def _show_errors(ax: Axes, prediction: np.ndarray, reference: np.ndarray, names: LabelNames, title: str) -> None:
    masks = errors(prediction, reference, names)
    _paint(ax, {_ERRORS[name]: mask for name, mask in masks.items()}, _unlabelled(reference, names), title)


def _paint(ax: Axes, masks: dict[str, np.ndarray], unlabelled: np.ndarray, title: str) -> None:
    from matplotlib.colors import to_rgb
    from scipy import ndimage

    picture = np.empty((*unlabelled.shape, 3), np.float32)
    picture[:] = to_rgb(_EMPTY)
    picture[unlabelled] = to_rgb(UNLABELLED)
    for colour, mask in masks.items():
        picture[mask] = to_rgb(colour)
    _imshow(ax, picture)
    # no hatching in a rim a few voxels wide, where its lines would hide what lies beside it
    wide = ndimage.binary_opening(unlabelled, iterations=3)
    if wide.any():
        ax.contourf(wide, levels=[0.5, 1.5], colors="none", hatches=["///"]).set(edgecolor="#8a8a8a", linewidth=0)
    ax.set_title(title, fontsize=10)


def _imshow(ax: Axes, picture: np.ndarray, **options: object) -> None:
    # pixels stay visible where enlarged; where made smaller, matplotlib averages
    interpolation = "auto" if max(picture.shape[:2]) > 300 else "nearest"
    ax.imshow(picture, interpolation=interpolation, **options)


def _unlabelled(plane: np.ndarray, names: LabelNames) -> np.ndarray:
    return np.zeros(plane.shape, bool) if names.ignore is None else plane == names.ignore


def _legend_handles(names: LabelNames, *, unlabelled: bool) -> list[Patch]:
    from matplotlib.patches import Patch

    edge = {"edgecolor": "#666666", "linewidth": 0.5}
    handles = [Patch(facecolor=class_colour(n), label=f"label {name}", **edge) for n, name in enumerate(names.classes)]
    kinds = [name for name in _ERRORS if name != "wrong class" or len(names.classes) > 1]
    handles += [Patch(facecolor=_ERRORS[name], label=f"{name}: {_ERROR_MEANING[name]}", **edge) for name in kinds]
    if unlabelled:
        handles.append(Patch(facecolor=UNLABELLED, hatch="///", label="unlabelled, not counted", **edge))
    return handles


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    # no pyplot: no global state, no display
    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained")


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
