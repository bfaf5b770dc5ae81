"""Whether the views' names say how the volumes of a dataset are sliced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

_NIFTI = (".nii", ".nii.gz")
_USUAL = "left-right, back-front, bottom-top"
_RUNS = {"L": "left-right", "R": "left-right", "P": "back-front", "A": "back-front", "I": "bottom-top", "S": "bottom-top"}


def orientation_note(images: Mapping[str, Path], *, reader: str) -> str | None:
    """What the user should know of the axes of NIfTI files; only headers are read.

    Args:
        images: case to one of its files.
        reader: name of nnU-Net's reader of the dataset.

    Returns:
        One sentence where axes run otherwise than the views' names suppose, or where cases differ; else None.
    """
    if reader == "NibabelIOWithReorient":
        return None
    runs = {case: found for case, path in images.items() if (found := _axes(path)) is not None}
    groups = Counter(runs.values())
    if not groups or set(groups) == {_USUAL}:
        return None
    unusual = next(case for case, found in runs.items() if found != _USUAL)
    found = (f"in {groups.total() - groups[_USUAL]} of {groups.total()} cases, such as {unusual}, the axes x, y, z do not run {_USUAL} but "
             f"{runs[unusual]}")
    if len(groups) > 1:
        return (f"{found}; as the cases differ, a view mixes planes: bring the files to one orientation, or set "
                f'"overwrite_image_reader_writer": "NibabelIOWithReorient" in dataset.json')
    return f"{found}; the views have other names than their planes, and the fusion is the same"


def _axes(path: Path) -> str | None:
    import nibabel

    if not path.name.endswith(_NIFTI):
        return None
    return ", ".join(_RUNS.get(code, "nowhere") for code in nibabel.aff2axcodes(nibabel.load(path).affine))
