"""nnU-Net's resampling of a whole volume, done for one part of it at a time.

Every part is computed at the coordinates that it has in the whole volume, from the voxels around it. Linear interpolation needs one voxel
more on each side and gives nnU-Net's numbers up to rounding. The cubic spline of the image in principle depends on every voxel; the
influence falls by a factor of 3.7 per voxel, so that 16 voxels leave 1e-9 of it. nnU-Net cuts overshoot at the range of the volume, or of
each slice where it resamples slice by slice; here it is always the range of the volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape, determine_do_sep_z_and_axis
from scipy import ndimage

from nnunet_neuro.predict.model import TrainedModel
from nnunet_neuro.volumes.volume import Region

_WHOLE_VOLUME = "resample_data_or_seg_to_shape"
_NEVER = "no_resampling_hack"
# by order of the spline
_HALO = {0: 1, 1: 2, 2: 16, 3: 16, 4: 24, 5: 24}


@dataclass(frozen=True)
class Resampling:
    """From one grid of voxels to another one over the same box; axes are the transposed ones.

    Attributes:
        source: voxels of the whole grid that is read.
        target: voxels of the whole grid that is computed.
        order: of the spline; within a slice where there is a `slice_axis`.
        slice_axis: the axis along which the slices lie that are resampled one by one; None for all axes at once.
        slice_order: of the spline from slice to slice.
    """

    source: tuple[int, ...]
    target: tuple[int, ...]
    order: int
    slice_axis: int | None
    slice_order: int

    @property
    def halo(self) -> int:
        """Most voxels of the source beyond those that the target's coordinates fall on."""
        return max(_HALO[self.order], _HALO[self.slice_order] if self.slice_axis is not None else 0)

    def needed(self, region: Region) -> Region:
        """The part of the source that a part of the target is computed from."""
        parts = []
        for axis, part in enumerate(region):
            first, last = self._coordinates(axis, np.array([part.start, part.stop - 1]))
            halo = _HALO[self.slice_order if axis == self.slice_axis else self.order]
            parts.append(slice(max(0, int(np.floor(first)) - halo), min(self.source[axis], int(np.ceil(last)) + halo + 1)))
        return tuple(parts)

    def __call__(self, voxels: np.ndarray, first: Sequence[int], region: Region) -> np.ndarray:
        """Compute a part of the target.

        Args:
            voxels: the part of the source that `needed` names, 3D; floats.
            first: of the part's first voxel in the source.
            region: of the target.

        Returns:
            float64 with the region's shape, not cut to any range.
        """
        if self.slice_axis is None:
            return self._spline(voxels, first, region, (0, 1, 2), self.order)
        within = tuple(axis for axis in range(3) if axis != self.slice_axis)
        slices = [self._spline(part, [first[axis] for axis in within], [region[axis] for axis in within], within, self.order)
                  for part in np.moveaxis(voxels, self.slice_axis, 0)]
        stacked, part = np.stack(slices, self.slice_axis), region[self.slice_axis]
        if self.slice_order == 0:
            coordinates = self._coordinates(self.slice_axis, np.arange(part.start, part.stop)) - first[self.slice_axis]
            nearest = np.clip(np.floor(coordinates + 0.5).astype(int), 0, stacked.shape[self.slice_axis] - 1)
            return stacked.take(nearest, self.slice_axis)
        lines = self._spline(np.moveaxis(stacked, self.slice_axis, 0), [first[self.slice_axis], 0, 0],
                             [part, *(slice(0, region[axis].stop - region[axis].start) for axis in within)], (self.slice_axis, None, None),
                             self.slice_order)
        return np.moveaxis(lines, 0, self.slice_axis)

    def _spline(self, voxels: np.ndarray, first: Sequence[int], region: Sequence[slice], axes: Sequence[int | None],
                order: int) -> np.ndarray:
        """Resample along axes of the grid; None for an axis of the array along which nothing changes."""
        scale = np.array([1.0 if axis is None else self.source[axis] / self.target[axis] for axis in axes])
        start = np.array([part.start for part in region])
        shape = tuple(part.stop - part.start for part in region)
        return ndimage.affine_transform(voxels.astype(np.float64, copy=False), scale, (start + 0.5) * scale - 0.5 - np.array(first), shape,
                                        order=order, mode="nearest")

    def _coordinates(self, axis: int, voxels: np.ndarray) -> np.ndarray:
        """Where target voxels lie in the source, by nnU-Net's formula."""
        return self.source[axis] / self.target[axis] * (voxels + 0.5) - 0.5


def resampled_shape(model: TrainedModel, shape: Sequence[int], spacing: Sequence[float]) -> tuple[int, ...]:
    """Voxels of a box at the plan's voxel size; `shape` itself where the model never resamples.

    Args:
        model: the plans say it.
        shape: voxels of the box, transposed.
        spacing: voxel size, transposed, in the plan's unit.

    Raises:
        ValueError: nothing of the box would be left.
    """
    if model.configuration.configuration.get("resampling_fn_data", _WHOLE_VOLUME) == _NEVER:
        return tuple(shape)
    new = tuple(int(length) for length in compute_new_shape(shape, spacing, plan_spacing(model, spacing)))
    if min(new) < 1:
        raise ValueError(f"a box of {tuple(shape)} voxels of {tuple(spacing)} has no voxel left at the plan's voxel size "
                         f"{plan_spacing(model, spacing)}; check the spacing and its unit")
    return new


def plan_spacing(model: TrainedModel, spacing: Sequence[float]) -> tuple[float, ...]:
    """The plan's voxel size, transposed; along the first axis of a 2D configuration it is that of the input."""
    own = tuple(map(float, model.configuration.spacing))
    return (spacing[0], *own) if model.is_2d else own


def image_resampling(model: TrainedModel, source: Sequence[int], target: Sequence[int], spacing: Sequence[float]) -> Resampling:
    """From the input's voxels to the plan's.

    Raises:
        ValueError: the plan asks for a function that cannot be followed part by part.
    """
    return _resampling(model, "data", source, target, spacing, plan_spacing(model, spacing))


def logits_resampling(model: TrainedModel, source: Sequence[int], target: Sequence[int], spacing: Sequence[float]) -> Resampling:
    """From the plan's voxels, those of the logits, back to the input's.

    Raises:
        ValueError: the plan asks for a function that cannot be followed part by part.
    """
    return _resampling(model, "probabilities", source, target, plan_spacing(model, spacing), spacing)


def _resampling(model: TrainedModel, kind: str, source: Sequence[int], target: Sequence[int], current: Sequence[float],
                new: Sequence[float]) -> Resampling:
    plan = model.configuration.configuration
    name = plan.get(f"resampling_fn_{kind}")
    if name != _WHOLE_VOLUME:
        raise ValueError(f"the model in {model.folder} resamples {kind} by {name}, which cannot be followed part by part; expected "
                         f"{_WHOLE_VOLUME}: resample the volume to {plan_spacing(model, current)} first")
    options = plan.get(f"resampling_fn_{kind}_kwargs", {})
    by_slices, axis = determine_do_sep_z_and_axis(options.get("force_separate_z", False), current, new)
    return Resampling(tuple(source), tuple(target), options.get("order", 3), int(axis) if by_slices else None, options.get("order_z", 0))
