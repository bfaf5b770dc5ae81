"""Where a voxel of the input lies in the volume that the network's windows slide over.

nnU-Net transposes the input, crops it to what is not zero, resamples it to the plan's voxel size, and pads it to the size of a window at
least. What comes out is called the canvas here. Its axes, like those of everything called "transposed", are in the network's order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from nnunet_neuro.predict.windows import window_starts
from nnunet_neuro.volumes.volume import Region


@dataclass(frozen=True)
class NetworkGrid:
    """The way from the input to the canvas.

    Attributes:
        shape: (z, y, x) of the input.
        axes: which axis of the input each one of the canvas is, nnU-Net's `transpose_forward`.
        box: the part that is not zero, transposed; nothing outside is predicted.
        resampled: voxels of the box at the plan's voxel size, transposed.
        patch: voxels of a window, transposed; 1 along the first axis for a 2D configuration.
        step: largest distance of two windows as a share of the patch.
    """

    shape: tuple[int, int, int]
    axes: tuple[int, int, int]
    box: Region
    resampled: tuple[int, int, int]
    patch: tuple[int, int, int]
    step: float

    @property
    def box_shape(self) -> tuple[int, ...]:
        """Voxels of the box, transposed."""
        return tuple(part.stop - part.start for part in self.box)

    @property
    def is_resampled(self) -> bool:
        """Whether the input's voxel size differs from the plan's by so much that nnU-Net resamples."""
        return self.resampled != self.box_shape

    @property
    def rolling_axis(self) -> int:
        """The axis of the input that comes first on the canvas: windows are added along it, and blocks of a column follow each other."""
        return self.axes[0]

    @property
    def canvas(self) -> tuple[int, ...]:
        """Voxels of the canvas."""
        return tuple(map(max, self.resampled, self.patch))

    @property
    def padding(self) -> tuple[int, ...]:
        """Zeros in front of the resampled box; where their number is odd, nnU-Net puts one more behind."""
        return tuple((whole - part) // 2 for whole, part in zip(self.canvas, self.resampled))

    @cached_property
    def starts(self) -> tuple[list[int], ...]:
        """First canvas voxel of the windows along each axis."""
        return tuple(window_starts(length, patch, self.step) for length, patch in zip(self.canvas, self.patch))

    @property
    def windows(self) -> int:
        """Number of windows."""
        return math.prod(map(len, self.starts))

    def transposed(self, region: Region) -> Region:
        """A (z, y, x) region in the canvas's order of axes."""
        return tuple(region[axis] for axis in self.axes)

    def untransposed(self, region: Sequence) -> tuple:
        """What is in the canvas's order of axes as (z, y, x)."""
        return tuple(region[place] for place in self.to_input_axes)

    @property
    def to_input_axes(self) -> tuple[int, ...]:
        """The permutation from the canvas's order of axes to (z, y, x), nnU-Net's `transpose_backward`."""
        return tuple(self.axes.index(axis) for axis in range(3))

    def inside_box(self, region: Region) -> Region | None:
        """The part of a (z, y, x) region in the box, transposed and counted from the box's corner; None if there is none."""
        parts = [slice(max(part.start, box.start) - box.start, min(part.stop, box.stop) - box.start)
                 for part, box in zip(self.transposed(region), self.box)]
        return tuple(parts) if all(part.start < part.stop for part in parts) else None

    def on_canvas(self, region: Region) -> Region:
        """The voxels of the resampled box on the canvas."""
        return tuple(slice(part.start + pad, part.stop + pad) for part, pad in zip(region, self.padding))
