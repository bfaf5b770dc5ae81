"""Defects of electron microscopy that come section by section: stripes of brightness, lost sections, sections out of place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nnunet_neuro.augment.drawn_transform import DrawnTransform, draw_scalar

_OUTSIDE = -1  # as nnU-Net labels what lies outside the image


@dataclass(frozen=True)
class Stripes:
    """What was drawn: the image axis across the stripes, their profile along it (float32), and the sections that have them."""

    axis: int
    profile: np.ndarray
    first: int
    last: int


class BrightnessStripesTransform(DrawnTransform):
    """Adds bright and dark stripes along an in-plane axis, as curtaining and charging do; the label stays.

    Args:
        section_axis: spatial axis of the patch that counts sections; None for a flat patch.
        strength: brightness of the strongest stripe in standard deviations of the patch; (low, high) to draw from.
        stripes: most of them.
        width: of a stripe, its standard deviation in voxels, drawn evenly from (low, high).
        probability: of being applied to a patch.
    """

    def __init__(self, section_axis: int | None, *, strength: float | tuple[float, float] = (0.2, 1.0), stripes: int = 6,
                 width: tuple[float, float] = (0.7, 6.0), probability: float = 1.0) -> None:
        super().__init__(probability)
        self.section_axis = section_axis
        self.strength = strength
        self.stripes = stripes
        self.width = width

    def draw(self, image: torch.Tensor, segmentation: torch.Tensor | None) -> Stripes | None:
        strength = draw_scalar(self.strength)
        if strength == 0:
            return None
        axis = int(np.random.choice(in_plane_axes(image.ndim - 1, self.section_axis)))
        length = image.shape[axis + 1]
        count = np.random.randint(1, self.stripes + 1)
        centres = np.random.uniform(0, length, count)
        widths = np.random.uniform(*self.width, count)
        brightness = np.random.uniform(-1, 1, count)
        shapes = np.exp(-0.5 * ((np.arange(length)[:, None] - centres) / widths) ** 2)
        profile = shapes @ (strength * brightness / np.abs(brightness).max())
        return Stripes(axis, profile.astype(np.float32), *_draw_run(1 if self.section_axis is None else image.shape[self.section_axis + 1]))

    def fill(self, image: torch.Tensor, segmentation: torch.Tensor | None, drawn: Stripes) -> None:
        if self.section_axis is not None:
            image = image.narrow(self.section_axis + 1, drawn.first, drawn.last - drawn.first)
        form = [1] * (image.ndim - 1)
        form[drawn.axis] = -1
        profile = torch.from_numpy(drawn.profile).view(form)
        for channel in image:
            # of every 7th row: the spread need not be exact
            channel.add_(profile * channel[..., ::7, :].std(correction=0))


def in_plane_axes(dimensions: int, section_axis: int | None) -> list[int]:
    """Spatial axes that lie in a section."""
    return [axis for axis in range(dimensions) if axis != section_axis]


def _draw_run(sections: int) -> tuple[int, int]:
    """All sections or, as often, some that follow each other: (first, last + 1)."""
    if np.random.random() < 0.5:
        return 0, sections
    first, last = np.sort(np.random.randint(0, sections, 2))
    return int(first), int(last) + 1


@dataclass(frozen=True)
class Loss:
    """What was drawn: the sections that are lost, and what stands in their place, one of `FILLINGS`."""

    sections: tuple[int, ...]
    filling: str


# the darkest grey value, the mean one, or the section before
FILLINGS = ("dark", "mean", "neighbour")


class MissingSectionsTransform(DrawnTransform):
    """Replaces the image of some sections by nothing, or by the section before; the label stays, to be guessed from the others.

    Args:
        section_axis: spatial axis of the patch that counts sections.
        most: sections that are lost at the same time; 0 changes nothing. A patch keeps at least half of its sections.
        probability: of being applied to a patch.
    """

    def __init__(self, section_axis: int, *, most: int = 2, probability: float = 1.0) -> None:
        super().__init__(probability)
        self.section_axis = section_axis
        self.most = most

    def draw(self, image: torch.Tensor, segmentation: torch.Tensor | None) -> Loss | None:
        sections = image.shape[self.section_axis + 1]
        most = min(self.most, sections // 2)
        if most == 0:
            return None
        count = np.random.randint(1, most + 1)
        if np.random.random() < 0.5:  # side by side
            first = np.random.randint(0, sections - count + 1)
            lost = range(first, first + count)
        else:
            lost = sorted(np.random.choice(sections, count, replace=False))
        return Loss(tuple(int(section) for section in lost), FILLINGS[np.random.randint(len(FILLINGS))])

    def fill(self, image: torch.Tensor, segmentation: torch.Tensor | None, drawn: Loss) -> None:
        for channel in image:
            sections = channel.movedim(self.section_axis, 0)
            value = channel.min() if drawn.filling == "dark" else channel.mean()
            for section in drawn.sections:
                # the one before has been replaced already where two are lost; the first takes the nearest after it that is left
                left = section - 1 if section else next(n for n in range(len(sections)) if n not in drawn.sections)
                sections[section] = sections[left] if drawn.filling == "neighbour" else value


@dataclass(frozen=True)
class Shift:
    """What was drawn: displacement (sections, in-plane axes) in voxels of each section."""

    displacement: np.ndarray


class SectionShiftTransform(DrawnTransform):
    """Displaces sections within their plane, image and label together.

    One of three, equally often: a step (from some section on, all are displaced), a slip (one section is), or jitter (each is, by up to
    a fifth of `most`). What comes in from beyond the border is nnU-Net's padding: 0, and labelled as outside.

    Args:
        section_axis: spatial axis of the patch that counts sections.
        most: displacement along an axis, in voxels; 0 changes nothing. Never more than a quarter of the patch.
        probability: of being applied to a patch.
    """

    def __init__(self, section_axis: int, *, most: int = 10, probability: float = 1.0) -> None:
        super().__init__(probability)
        self.section_axis = section_axis
        self.most = most

    def draw(self, image: torch.Tensor, segmentation: torch.Tensor | None) -> Shift | None:
        sections = image.shape[self.section_axis + 1]
        axes = in_plane_axes(image.ndim - 1, self.section_axis)
        most = np.array([min(self.most, image.shape[axis + 1] // 4) for axis in axes])
        displacement = np.zeros((sections, len(axes)), int)
        kind = np.random.randint(3)
        where = np.random.randint(sections)
        if kind == 2:
            displacement[:] = np.random.randint(-(most // 5), most // 5 + 1, displacement.shape)
        else:
            displacement[where:None if kind == 0 else where + 1] = np.random.randint(-most, most + 1)
        return Shift(displacement) if displacement.any() else None

    def fill(self, image: torch.Tensor, segmentation: torch.Tensor | None, drawn: Shift) -> None:
        fill_shifted(image, self.section_axis, drawn.displacement, 0)
        if segmentation is not None:
            fill_shifted(segmentation, self.section_axis, drawn.displacement, _OUTSIDE)


def fill_shifted(array: torch.Tensor, section_axis: int, displacement: np.ndarray, padding: float) -> None:
    """Displace the sections of (C, [z,] y, x) within their plane, in place; sections that move alike move at once."""
    borders = np.flatnonzero((np.diff(displacement, axis=0) != 0).any(axis=1)) + 1
    for first, last in zip([0, *borders], [*borders, len(displacement)]):
        if displacement[first].any():
            run = array.narrow(section_axis + 1, int(first), int(last - first))
            run.copy_(_shifted(run, in_plane_axes(array.ndim - 1, section_axis), displacement[first], padding))


def _shifted(run: torch.Tensor, axes: Sequence[int], displacement: Sequence[int], padding: float) -> torch.Tensor:
    moved = torch.full_like(run, padding)
    source, target = run, moved
    for axis, shift in zip(axes, displacement):
        left = run.shape[axis + 1] - abs(int(shift))
        source = source.narrow(axis + 1, max(0, -int(shift)), left)
        target = target.narrow(axis + 1, max(0, int(shift)), left)
    target.copy_(source)
    return moved
