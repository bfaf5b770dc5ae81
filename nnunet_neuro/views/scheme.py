"""The views by name: which axis each slices, and what nnU-Net knows it by.

A view slices along an axis of the array that nnU-Net reads, which is (z, y, x): axial along z, coronal along y, sagittal along x. For
NIfTI read through SimpleITK these are the file's own axes in reverse. The names are right where x runs left-right, y back-front and z
bottom-top, either way round, as in volumes of the HCP; in a file stored otherwise the same three planes are sliced under other names.
nnU-Net's reader NibabelIOWithReorient turns every file to such axes first.
"""

from __future__ import annotations

from collections.abc import Iterable

CONFIGURATION = "2d"
# view -> axis of the array (z, y, x) that it slices along
VIEWS = {"axial": 0, "coronal": 1, "sagittal": 2}


def planner_name(view: str) -> str:
    """Planner to give nnU-Net with `-pl`."""
    return f"nnUNetPlanner{view.capitalize()}"


def plans_name(view: str) -> str:
    """Plans to give nnU-Net with `-p`."""
    return f"nnUNetPlans{view.capitalize()}"


def transposition(view: str) -> tuple[list[int], list[int]]:
    """nnU-Net's `transpose_forward`, which brings the sliced axis to the front and keeps the order of the others, and its inverse."""
    sliced = VIEWS[view]
    forward = [sliced, *(axis for axis in range(3) if axis != sliced)]
    return forward, [forward.index(axis) for axis in range(3)]


def checked_views(names: Iterable[str]) -> tuple[str, ...]:
    """The views of these names, each once, always in the same order.

    Raises:
        ValueError: none, or an unknown name.
    """
    wanted = list(names)
    unknown = [name for name in wanted if name not in VIEWS]
    if unknown or not wanted:
        raise ValueError(f"there is no view {unknown[0]!r}; choose of {', '.join(VIEWS)}" if unknown
                         else f"no view is named; choose of {', '.join(VIEWS)}")
    return tuple(view for view in VIEWS if view in wanted)
