"""What a conversion would write, looked at before it is written: sizes, class fractions, pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nnunet_neuro.colours import UNLABELLED, class_colour
from nnunet_neuro.raw_case import read_label
from nnunet_neuro.raw_dataset import (
    IGNORE,
    Case,
    DatasetInfo,
    check_headers,
    check_replaceable,
    dataset_folder,
    fetch_remote,
    noting_remote,
    progress_bar,
)
from nnunet_neuro.raw_formats import FORMATS
from nnunet_neuro.volumes import Volume

_PART_NAMES = {"train": "training", "val": "validation", "test": "test"}
_MOST_CHANNELS_SHOWN = 3


@dataclass
class Part:
    """The training, validation or test cases of a survey.

    Attributes:
        cases: how many.
        groups: names of their groups.
        voxel_bytes: of images and labels together, uncompressed.
        voxels_of: labelled voxels of each class.
        shapes: smallest and largest length along each axis.
        spacings: the voxel sizes that occur.
    """

    cases: int = 0
    groups: set[str] = field(default_factory=set)
    voxel_bytes: int = 0
    voxels_of: dict[str, int] = field(default_factory=dict)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    spacings: set[tuple[float, ...]] = field(default_factory=set)


def limited(cases: Callable[[], Iterable[Case]], limit: int | None) -> Callable[[], Iterator[Case]]:
    """The first `limit` cases of each split; all for None."""

    def first_cases() -> Iterator[Case]:
        counts: Counter[str] = Counter()
        for case in cases():
            counts[case.split] += 1
            if limit is None or counts[case.split] <= limit:
                yield case

    return first_cases


def survey(cases: Callable[[], Iterable[Case]], info: DatasetInfo, *, dataset_id: int, raw_folder: str | Path, overwrite: bool = False,
           progress: bool = True) -> dict[str, Part]:
    """Read every header and every label, write nothing; the voxels of images are not looked at.

    Args:
        cases: as for `write_raw_dataset`.
        info: what is true of all of them.
        dataset_id: 1 to 999.
        raw_folder: nnU-Net's nnUNet_raw.
        overwrite: as for `write_raw_dataset`.
        progress: show progress bars on stderr.

    Returns:
        What there is for each split that occurs ("train", "val", "test").

    Raises:
        ValueError, OSError: what would stop the conversion, but for damaged voxels of images.
    """
    remote: list[Volume] = []
    split_of, _ = check_headers(lambda: noting_remote(cases(), remote, _label_of), info, dataset_id=dataset_id, raw_folder=raw_folder,
                                progress=progress)
    check_replaceable(dataset_folder(info, dataset_id, raw_folder), info, overwrite=overwrite)
    fetch_remote(remote, progress)
    parts: dict[str, Part] = {}
    for case in progress_bar(cases(), "reading labels", progress, len(split_of)):
        part = parts.setdefault(case.split, Part())
        label, voxels_of = read_label(case, info)
        part.cases += 1
        part.groups.add(case.group)
        part.shapes.append(case.channels[0].shape)
        part.spacings.add(tuple(float(size) for size in case.spacing))
        part.voxel_bytes += sum(int(np.prod(volume.shape)) * volume.dtype.itemsize for volume in case.channels)
        part.voxel_bytes += label.nbytes if label is not None else 0
        for name, count in voxels_of.items():
            part.voxels_of[name] = part.voxels_of.get(name, 0) + count
    return parts


def _label_of(case: Case) -> list[Volume]:
    return [] if case.label is None else [case.label]


def describe(parts: dict[str, Part], info: DatasetInfo, folder: Path) -> str:
    """The survey as text, one line per fact."""
    lines = [f"would write {folder}",
             f"  channels   {', '.join(info.channel_names)}",
             f"  labels     {', '.join(f'{value} {name}' for name, value in info.labels.items())}",
             f"  format     {info.file_ending}, read by nnU-Net's {FORMATS[info.file_ending].reader}",
             f"  licence    {info.licence}"]
    for split, part in parts.items():
        shapes = np.array(part.shapes)
        low, high = ("x".join(map(str, bound)) for bound in (shapes.min(axis=0), shapes.max(axis=0)))
        spacings = sorted(part.spacings)
        shown = ", ".join(" x ".join(f"{size:g}" for size in spacing) for spacing in spacings[:3])
        count = f"{_number(part.cases, 'case')} of {_number(len(part.groups), 'group')}"
        lines += [f"  {_PART_NAMES[split]:<11}{count}, {part.voxel_bytes / 1e6:.1f} MB of voxels",
                  f"             shape {low if low == high else f'{low} to {high}'}, voxel size {shown}"
                  + (f" and {len(spacings) - 3} more" if len(spacings) > 3 else "")]
        total = sum(part.voxels_of.values())
        lines += [f"             {name:<18}{count / total:10.4%}" for name, count in part.voxels_of.items()] if total else \
            ["             no labels"]
    return "\n".join(lines)


def _number(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def write_previews(cases: Callable[[], Iterable[Case]], info: DatasetInfo, folder: Path, *, progress: bool = True) -> list[Path]:
    """One PNG per group: the plane of its first labelled case with most labelled foreground, and a section across the planes.

    Args:
        cases: as for `write_raw_dataset`.
        info: what is true of all of them.
        folder: where the pictures go; made where it is missing.
        progress: show a progress bar on stderr.

    Returns:
        The pictures' files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, Path] = {}
    for case in progress_bar(_first_of_each_group(cases()), "drawing previews", progress):
        written[case.group] = folder / f"{case.identifier}.png"
        _draw(case, info).savefig(written[case.group], metadata={"Software": None})
    return list(written.values())


def _first_of_each_group(cases: Iterable[Case]) -> Iterator[Case]:
    """The first labelled case of each group, else its first case."""
    waiting: dict[str, Case] = {}
    drawn = set()
    for case in cases:
        if case.group in drawn:
            continue
        if case.label is None:
            waiting.setdefault(case.group, case)
            continue
        drawn.add(case.group)
        waiting.pop(case.group, None)
        yield case
    yield from waiting.values()


def _draw(case: Case, info: DatasetInfo):
    from matplotlib.figure import Figure

    label, _ = read_label(case, info)
    ignore = info.labels.get(IGNORE)
    flat = len(case.channels[0].shape) == 2
    shape = (1, *case.channels[0].shape) if flat else case.channels[0].shape
    foreground = np.zeros(shape, bool) if label is None else ((label > 0) & (label != ignore)).reshape(shape)
    if not foreground.any() and label is not None and ignore is not None:
        foreground = (label != ignore).reshape(shape)
    sections = _sections(foreground, flat)
    spacing = (1.0, *case.spacing) if flat else case.spacing
    channels = case.channels[:_MOST_CHANNELS_SHOWN]
    heights = [_height(shape, spacing, across) for across, _ in sections]
    figure = Figure(figsize=(4 * (len(channels) + 1), 4 * sum(heights) + 0.9), dpi=110, layout="constrained")
    rows = figure.subplots(len(sections), len(channels) + 1, squeeze=False, gridspec_kw={"height_ratios": heights})
    for axes, (across, index) in zip(rows, sections):
        region = tuple(slice(index, index + 1) if axis == across else slice(0, length) for axis, length in enumerate(shape))
        region = region[1:] if flat else region
        aspect = spacing[1 if across == 0 else 0] / spacing[2]
        planes = [np.squeeze(volume.read(region), axis=None if flat else across) for volume in channels]
        for ax, plane, name in zip(axes, planes, info.channel_names):
            _show_grey(ax, plane, aspect, f"{name}, {'zy'[across]} = {index}" if not flat else name)
        _show_grey(axes[-1], planes[0], aspect, "label")
        if label is not None:
            _show_classes(axes[-1], np.squeeze(label[region], axis=None if flat else across), info, aspect)
    figure.suptitle(f"{case.identifier} (group {case.group}, {_PART_NAMES[case.split]})", fontsize=11)
    figure.legend(handles=_legend(info), loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure


def _sections(foreground: np.ndarray, flat: bool) -> list[tuple[int, int]]:
    """(axis, index) of the planes to show: most foreground along z, and along y where there is more than one plane."""
    sections = [(0, _fullest(foreground, 0))]
    return sections if flat or foreground.shape[0] < 2 else [*sections, (1, _fullest(foreground, 1))]


def _fullest(foreground: np.ndarray, axis: int) -> int:
    counts = np.count_nonzero(foreground, axis=tuple(other for other in range(3) if other != axis))
    return int(counts.argmax()) if counts.any() else foreground.shape[axis] // 2


def _height(shape: tuple[int, ...], spacing: tuple[float, ...], across: int) -> float:
    vertical = 1 if across == 0 else 0
    return float(np.clip(shape[vertical] * spacing[vertical] / (shape[2] * spacing[2]), 0.15, 2.0))


def _show_grey(ax, plane: np.ndarray, aspect: float, title: str) -> None:
    plane = np.atleast_2d(plane).astype(np.float32)
    finite = plane[np.isfinite(plane)]
    low, high = np.percentile(finite, (0.5, 99.8)) if finite.size else (0, 1)
    ax.imshow(plane, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect=aspect)
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=9)


def _show_classes(ax, plane: np.ndarray, info: DatasetInfo, aspect: float) -> None:
    from matplotlib.colors import to_rgba

    plane = np.atleast_2d(plane)
    colours = np.zeros((*plane.shape, 4), np.float32)
    for colour, value in _class_colours(info):
        colours[plane == value] = to_rgba(colour, 0.55)
    ax.imshow(colours, aspect=aspect, interpolation="nearest")


def _class_colours(info: DatasetInfo) -> list[tuple[str, int]]:
    classes = [value for name, value in info.labels.items() if value and name != IGNORE]
    colours = [(class_colour(index), value) for index, value in enumerate(classes)]
    return [*colours, (UNLABELLED, info.labels[IGNORE])] if IGNORE in info.labels else colours


def _legend(info: DatasetInfo) -> list:
    from matplotlib.patches import Patch

    names = {value: name for name, value in info.labels.items()}
    return [Patch(facecolor=colour, label=names[value]) for colour, value in _class_colours(info)]
