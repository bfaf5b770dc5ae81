"""The thalamus benchmark's folder of HCP subjects, a few voxels large."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import nibabel
import numpy as np

TRAINING = ("100206", "100307", "100610", "101006", "101107")
FINE_TUNING = ("100408", "107321", "109830")
TESTING = ("103010", "112314")
UNLISTED = ("201515",)

IMAGES = {
    "T1": "T1w_acpc_dc_restore_1.25.nii.gz",
    "evalue1": "diffusion/evalue1.nii.gz",
    "FA": "diffusion/FA.nii.gz",
    "RD": "diffusion/RD.nii.gz",
    "MD": "diffusion/MD.nii.gz",
}
MASKS = {
    "staple": "STAPLE/STAPLE_th0.5_thalamus_1.25.nii.gz",
    "freesurfer": "FreeSurfer/aparc+aseg_1.25_nearest.nii.gz",
    "fsl": "FSL/T1_first_all_fast_firstseg_1.25_nearest.nii.gz",
    "quicknat": "QuickNAT/segmentation_acpc_dc_restore_1.25_nearest.nii.gz",
    "manual": "manual/manual.nii.gz",
}
# code of background, left and right thalamus, and of another structure
CODES = {"staple": (0, 10, 49, 0), "freesurfer": (0, 10, 49, 1035), "fsl": (0, 10, 49, 17), "quicknat": (0, 7, 25, 3),
         "manual": (0, 10, 49, 0)}
SHAPE = (9, 11, 8)  # x, y, z
# radiological, as the HCP's own: x runs to the left
AFFINE = np.array([[-1.25, 0, 0, 90], [0, 1.25, 0, -126], [0, 0, 1.25, -72], [0, 0, 0, 1]])


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    """An array (x, y, z) as nibabel saves it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def structures() -> np.ndarray:
    """(x, y, z): 1 left thalamus, 2 right thalamus, 3 something else, 0 background."""
    array = np.zeros(SHAPE, np.uint8)
    array[2:4, 4:8, 3:6] = 1
    array[5:7, 4:8, 3:6] = 2
    array[4, 1:3, 2:4] = 3
    return array


def write_subject(folder: Path, *, masks: Iterable[str] = ("staple", "freesurfer", "fsl", "quicknat"), affine: np.ndarray = AFFINE) -> Path:
    """One subject's folder; its number draws the voxels."""
    generator = np.random.default_rng(int(folder.name))
    for file in IMAGES.values():
        write_nifti(folder / file, (generator.random(SHAPE) + structures() / 4).astype(np.float32), affine)
    for rater in masks:
        codes = np.array(CODES[rater])
        dtype = np.float32 if rater == "fsl" else np.int16  # FSL's tools save codes as floats
        write_nifti(folder / MASKS[rater], codes[structures()].astype(dtype), affine)
    return folder


def write_benchmark(folder: Path) -> Path:
    """Data/ with HCP_processed_data/ and the lists as published."""
    data = folder / "Data"
    for subject in (*TRAINING, *TESTING, *UNLISTED):
        write_subject(data / "HCP_processed_data" / subject)
    for subject in FINE_TUNING:
        write_subject(data / "HCP_processed_data" / subject, masks=MASKS)
    for name, subjects in (("training", TRAINING), ("fine_tuning", FINE_TUNING), ("testing", TESTING)):
        (data / f"{name}_subjects.txt").write_text("\n".join(subjects) + "\n")
    return data


def write_source(folder: Path) -> list[str]:
    """The benchmark's folder; the arguments of `nnneuro_convert thalamus` for its training part."""
    return [str(write_benchmark(folder))]
