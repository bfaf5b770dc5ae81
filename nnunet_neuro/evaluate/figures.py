"""Figures of single cases: planes, errors and projections.

Colours are told apart in brightness as well as in hue, so that they survive a colour-blind reader and a grey printer; a ninth class and
those after it are striped. Errors are drawn over the raw image, which is made pale for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from nnunet_neuro.colours import UNLABELLED, class_colour
from nnunet_neuro.evaluate import report_voxels
from nnunet_neuro.evaluate.label_names import LabelNames
from nnunet_neuro.evaluate.pairing import Pair
from nnunet_neuro.evaluate.report_pictures import CLASS_COLOURS, ERROR_COLOURS, INK, PLANE_COLOUR, Picture, new_figure, plain, png_of
from nnunet_neuro.evaluate.report_voxels import KINDS, DrawnCase, Views, projections, sections
from nnunet_neuro.evaluate.sources import known_spacing

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_EMPTY = "#f7f7f7"
_MEANING = {"hit": "in both", "extra": "prediction only", "wrong class": "another class", "missed": "reference only"}
_MARKERS = {"hit": "s", "extra": "^", "missed": "X"}
_PALEST, _DARKEST = 1.0, 0.82
_DARK = 0.3
_PANEL_WIDTH = 2.8  # inches
_GAP = 0.025
_THINNEST = 0.03  # of the longest side, to be drawn from the side
# thinning takes a minute for this many voxels
_MOST_THINNED = 1 << 26


@dataclass(frozen=True)
class _Panel:
    """One kind of picture in up to three views: (y, x), (y, z) and (z, x).

    Attributes:
        title: above it.
        views: (rows, columns, 3) float32 each, 0 to 1.
        unlabelled: (rows, columns) bool each, hatched.
        places: kind to (n, 3) voxels (z, y, x), drawn as points.
        planes: (z, y, x) where the other views cut this one, or None.
    """

    title: str
    views: Views
    unlabelled: Views
    places: dict[str, np.ndarray] | None = None
    planes: tuple[int, int, int] | None = None


def case_picture(pair: Pair, names: LabelNames, *, tolerance: float | None = None) -> Picture:
    """One case: raw, reference, prediction and errors in three planes; below, the same in maximum projections along the three axes.

    Planes are those with most annotated reference. Unlabelled voxels are hatched. A flat image has one row and no projections; without an
    image the raw panels are left out.

    Args:
        pair: its files.
        names: its labels.
        tolerance: a length; the errors of centre lines are drawn in place of the projected errors then. None leaves them out.
    """
    voxels = report_voxels.read_case(pair, names)
    spacing = known_spacing(pair) or (1.0, 1.0, 1.0)
    planes = report_voxels.fullest_planes(voxels)
    flat = voxels.reference.shape[0] == 1
    views = 1 if flat or _is_thin(voxels.reference.shape, spacing) else 3
    lines = None
    if tolerance is not None and voxels.reference.size <= _MOST_THINNED:
        lines = report_voxels.centre_line_errors(voxels.prediction != 0, voxels.reference != 0, voxels.annotated, tolerance=tolerance,
                                                 spacing=spacing)
    rows = [_section_panels(voxels, planes, names)]
    if flat:
        rows[0] += [_line_panel(voxels, lines)] if lines is not None else []
    else:
        rows.append(_projection_panels(voxels, names, lines))
    figure = _drawn(rows, voxels.reference.shape, spacing, views, _legend_handles(voxels, names, lines))
    return Picture(png_of(figure), _told(pair, voxels, planes, lines, flat=flat))


def pale_raw(view: np.ndarray) -> np.ndarray:
    """A raw image as a light ground for colours; of a dark one, such as of fluorescence, the negative.

    Args:
        view: (rows, columns) of any number type.

    Returns:
        (rows, columns) float32, 0.82 to 1.
    """
    grey = _grey(view)
    return np.float32(_DARKEST) + np.float32(_PALEST - _DARKEST) * (1 - grey if np.median(grey) < _DARK else grey)


def painted(picture: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """A picture with classes painted over it, in place; those after the eighth are striped.

    Args:
        picture: (rows, columns, 3) float32, 0 to 1.
        numbers: (rows, columns) unsigned, n for the n-th class, 0 for none.
    """
    from matplotlib.colors import to_rgb

    step = max(2, max(numbers.shape) // 40)
    rows, columns = np.indices(numbers.shape, sparse=True)
    stripe = (rows + columns) % (2 * step) < step
    for number in np.unique(numbers[numbers > 0]):
        here = numbers == number
        picture[here] = to_rgb(class_colour(number - 1))
        if number > CLASS_COLOURS:
            picture[here & stripe] = to_rgb(INK)
    return picture


def _section_panels(voxels: DrawnCase, planes: tuple[int, int, int], names: LabelNames) -> list[_Panel]:
    unlabelled = sections(~voxels.annotated, planes)
    nothing = tuple(np.zeros_like(view) for view in unlabelled)
    raw = None if voxels.image is None else sections(voxels.image, planes)
    panels = [] if raw is None else [_Panel("raw", tuple(_as_rgb(_grey(view)) for view in raw), nothing)]
    panels += [
        _Panel("reference", _coloured(sections(voxels.reference, planes), unlabelled), unlabelled),
        _Panel("prediction", _coloured(sections(voxels.prediction, planes), unlabelled), unlabelled),
        _Panel("errors", _errors(sections(voxels.kinds, planes), unlabelled, raw), unlabelled),
    ]
    if voxels.reference.shape[0] > 1:
        panels[0] = replace(panels[0], title=f"{panels[0].title}, z {planes[0]}, y {planes[1]}, x {planes[2]}", planes=planes)
    return panels


def _projection_panels(voxels: DrawnCase, names: LabelNames, lines: dict[str, np.ndarray] | None) -> list[_Panel]:
    unlabelled = projections(~voxels.annotated, np.all)
    reference = projections(np.where(voxels.annotated, voxels.reference, 0))
    raw = None if voxels.image is None else projections(voxels.image)
    panels = []
    if raw is not None:
        panels.append(_Panel("raw, maximum", tuple(_as_rgb(_grey(view)) for view in raw),
                             tuple(np.zeros_like(view) for view in unlabelled)))
    panels += [_Panel("reference, maximum", _coloured(reference, unlabelled), unlabelled),
               _Panel("prediction, maximum", _coloured(projections(voxels.prediction), unlabelled), unlabelled)]
    if lines is not None:
        return [*panels, _line_panel(voxels, lines)]
    kinds = projections(voxels.kinds, report_voxels.most_frequent_kind)
    return [*panels, _Panel("errors, most frequent in depth", _errors(kinds, unlabelled, None), unlabelled)]


def _line_panel(voxels: DrawnCase, lines: dict[str, np.ndarray]) -> _Panel:
    unlabelled = projections(~voxels.annotated, np.all)
    ground = tuple(_errors(tuple(np.zeros(view.shape, np.uint8) for view in unlabelled), unlabelled, None))
    return _Panel("centre lines at the tolerance", ground, unlabelled, lines)


def _coloured(numbers: Views, unlabelled: Views) -> Views:
    """Classes in their colours."""
    return tuple(painted(_ground(away, None), view) for view, away in zip(numbers, unlabelled))


def _errors(kinds: Views, unlabelled: Views, raw: Views | None) -> Views:
    from matplotlib.colors import to_rgb

    pictures = []
    for place, (view, away) in enumerate(zip(kinds, unlabelled)):
        picture = _ground(away, None if raw is None else raw[place])
        for number, kind in enumerate(KINDS, 1):
            picture[view == number] = to_rgb(ERROR_COLOURS[kind])
        pictures.append(picture)
    return tuple(pictures)


def _ground(unlabelled: np.ndarray, raw: np.ndarray | None) -> np.ndarray:
    from matplotlib.colors import to_rgb

    picture = np.empty((*unlabelled.shape, 3), np.float32)
    picture[:] = to_rgb(_EMPTY) if raw is None else pale_raw(raw)[..., None]
    picture[unlabelled] = to_rgb(UNLABELLED)
    return picture


def _grey(view: np.ndarray) -> np.ndarray:
    """Brightness 0 to 1, from the 1st to the 99.7th percentile."""
    finite = view[np.isfinite(view)] if np.issubdtype(view.dtype, np.inexact) else view
    low, high = np.percentile(finite, (1, 99.7)) if finite.size else (0, 1)
    return np.nan_to_num(np.clip((view - np.float32(low)) / np.float32(max(high - low, 1e-6)), 0, 1)).astype(np.float32)


def _as_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def _is_thin(shape: Sequence[int], spacing: Sequence[float]) -> bool:
    depth, *sides = (size * step for size, step in zip(shape, spacing))
    return depth < _THINNEST * max(sides)


def _drawn(rows: list[list[_Panel]], shape: Sequence[int], spacing: Sequence[float], views: int, handles: list[Artist]) -> Figure:
    lengths = [size * step for size, step in zip(shape, spacing)]
    gap = _GAP * max(lengths[1:])
    side = lengths[0] + gap if views == 3 else 0.0
    width, height = lengths[2] + side, lengths[1] + side
    columns = max(map(len, rows))
    panel_height = float(np.clip(_PANEL_WIDTH * height / width, 0.7, 1.5 * _PANEL_WIDTH))
    in_a_row = min(max(len(handles), 1), 6 if columns > 3 else 4)
    legend_height = 0.25 + 0.2 * -(-len(handles) // in_a_row)
    figure = new_figure(_PANEL_WIDTH * columns, len(rows) * (panel_height + 0.32) + legend_height)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.01, hspace=0.01)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, panels in zip(grid, rows):
        for ax, panel in zip(axes, panels):
            _draw(ax, panel, lengths, gap, spacing, views)
            ax.set(xlim=(-0.2 * gap, width + 0.2 * gap), ylim=(height + 0.2 * gap, -0.2 * gap), aspect="equal", xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            ax.set_title(panel.title, fontsize=10)
    figure.legend(handles=handles, loc="outside lower center", ncols=in_a_row, frameon=False, fontsize=9)
    return figure


def _draw(ax: Axes, panel: _Panel, lengths: Sequence[float], gap: float, spacing: Sequence[float], views: int) -> None:
    depth, height, width = lengths
    # left, right, bottom, top of (y, x), (y, z) and (z, x)
    extents = [(0, width, height, 0), (width + gap, width + gap + depth, height, 0), (0, width, height + gap + depth, height + gap)]
    for view, unlabelled, extent in list(zip(panel.views, panel.unlabelled, extents))[:views]:
        # pixels stay visible where enlarged; where made smaller, matplotlib averages
        ax.imshow(view, extent=extent, interpolation="auto" if max(view.shape[:2]) > 300 else "nearest", vmin=0, vmax=1)
        _hatch(ax, unlabelled, extent)
        ax.plot([extent[0], extent[1], extent[1], extent[0], extent[0]], [extent[2], extent[2], extent[3], extent[3], extent[2]],
                color="#999999", lw=0.6)
    if panel.planes is not None and views == 3:
        _mark_planes(ax, panel.planes, lengths, gap, spacing)
    for kind, places in (panel.places or {}).items():
        z, y, x = ((places[:, axis] + 0.5) * spacing[axis] for axis in range(3))
        across = [x, width + gap + z, x][:views]
        down = [y, y, height + gap + z][:views]
        size = float(np.clip(1.3 * 72 * _PANEL_WIDTH * min(spacing[1:]) / (width + (depth if views == 3 else 0)), 1.2, 5))
        ax.plot(np.concatenate(across), np.concatenate(down), _MARKERS[kind], c=ERROR_COLOURS[kind], mew=0,
                ms=size if kind == "hit" else 1.6 * size)


def _hatch(ax: Axes, unlabelled: np.ndarray, extent: Sequence[float]) -> None:
    from scipy import ndimage

    # no hatching in a rim a few voxels wide, where its lines would hide what lies beside it
    wide = ndimage.binary_opening(unlabelled, iterations=3)
    if wide.any() and min(wide.shape) > 1:
        ax.contourf(wide, levels=[0.5, 1.5], colors="none", hatches=["////"], extent=(extent[0], extent[1], extent[3], extent[2])).set(
            edgecolor="#8a8a8a", linewidth=0)


def _mark_planes(ax: Axes, planes: Sequence[int], lengths: Sequence[float], gap: float, spacing: Sequence[float]) -> None:
    """Where the views cut each other, dotted."""
    z, y, x = ((plane + 0.5) * step for plane, step in zip(planes, spacing))
    depth, height, width = lengths
    for across, down in (([x, x], [0, height + gap + depth]), ([0, width + gap + depth], [y, y]),
                         ([width + gap + z] * 2, [0, height]), ([0, width], [height + gap + z] * 2)):
        ax.plot(across, down, ":", color=PLANE_COLOUR, lw=0.9)


def _legend_handles(voxels: DrawnCase, names: LabelNames, lines: dict[str, np.ndarray] | None) -> list[Artist]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    edge = {"edgecolor": "#666666", "linewidth": 0.5}
    if names.instances:
        handles = [Patch(facecolor="none", label="objects: any colour, the same where they match", **edge)]
        meaning = {**_MEANING, "wrong class": "another object"}
    else:
        drawn = set(np.unique(voxels.reference)) | set(np.unique(voxels.prediction))
        handles = [_class_patch(number, name) for number, name in enumerate(names.classes, 1) if number in drawn]
        meaning = _MEANING
    kinds = set(np.unique(voxels.kinds))
    handles += [Patch(facecolor=ERROR_COLOURS[kind], label=f"{'wrong' if kind == 'wrong class' else kind}: {meaning[kind]}", **edge)
                for number, kind in enumerate(KINDS, 1) if number in kinds]
    if not voxels.annotated.all():
        handles.append(Patch(facecolor=UNLABELLED, hatch="////", label="unlabelled, not counted", **edge))
    if lines is not None:
        handles += [Line2D([], [], ls="", marker=_MARKERS[kind], c=ERROR_COLOURS[kind], mew=0, ms=6, label=f"centre line: {kind}")
                    for kind, places in lines.items() if len(places)]
    return handles


def _class_patch(number: int, name: str) -> Artist:
    from matplotlib.patches import Patch

    striped = number > CLASS_COLOURS
    return Patch(facecolor=class_colour(number - 1), hatch="////" if striped else None, edgecolor=INK if striped else "#666666",
                 linewidth=0.5, label=plain(name))


def _told(pair: Pair, voxels: DrawnCase, planes: Sequence[int], lines: dict[str, np.ndarray] | None, *, flat: bool) -> str:
    panels = f"{'raw image, ' if voxels.image is not None else ''}reference, prediction and their differences"
    where = "" if flat else f" in the planes z {planes[0]}, y {planes[1]}, x {planes[2]}; below, maximum projections along the three axes"
    counts = np.bincount(voxels.kinds.ravel(), minlength=len(KINDS) + 1)
    voxels_of = ", ".join(f"{counts[number]} {kind}" for number, kind in enumerate(KINDS, 1) if counts[number]) or "none in either"
    if lines is not None:
        voxels_of += "; of the centre lines " + ", ".join(f"{len(places)} {kind}" for kind, places in lines.items())
    return f"Case {pair.case}: {panels}{where}. Voxels: {voxels_of}."
