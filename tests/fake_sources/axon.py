"""A brain in the folder layout of D-LMBmap, a few voxels large."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

SPACING = (3.0, 1.625, 1.625)


def write_cube(path: Path, array: np.ndarray, *, spacing: tuple[float, float, float] | None = SPACING) -> Path:
    """A multi-page TIFF as Fiji writes it, with its voxel size in micrometres unless None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if spacing is None:
        tifffile.imwrite(path, array, photometric="minisblack", metadata={"axes": "ZYX"})
    else:
        tifffile.imwrite(path, array, imagej=True, resolution=(1 / spacing[2], 1 / spacing[1]),
                         metadata={"axes": "ZYX", "spacing": spacing[0], "unit": "um"})
    return path


def write_slices(folder: Path, array: np.ndarray) -> Path:
    """A folder of slice TIFFs, 0000.tif and so on."""
    for number, plane in enumerate(array):
        folder.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / f"{number:04d}.tif", plane)
    return folder


def axon_cube(seed: int, shape: tuple[int, int, int] = (8, 12, 10), dtype: type = np.uint16) -> tuple[np.ndarray, np.ndarray]:
    """A noisy cube with one bright fibre along a diagonal, and its label 0/255."""
    generator = np.random.default_rng(seed)
    label = np.zeros(shape, np.uint8)
    for z in range(shape[0]):
        label[z, (z + seed) % shape[1], (z + seed) % shape[2]] = 255
    top = 200 if dtype is np.uint8 else 20000
    image = generator.integers(0, top // 4, shape) + (label > 0) * (top // 2)
    return image.astype(dtype), label


def write_brain(folder: Path, *, numbers: tuple[int, ...] = (1, 2, 3), images: str = "volumes", artefacts: tuple[int, ...] = (),
                val: tuple[int, ...] = (), spacing: tuple[float, float, float] | None = SPACING, dtype: type = np.uint16) -> Path:
    """`folder`/{train,val}/... as published; Fine-label for train, Rough-label for val."""
    for part, chosen, labels in (("train", numbers, "Fine-label"), ("val", val, "Rough-label")):
        for number in chosen:
            image, label = axon_cube(number, dtype=dtype)
            write_cube(folder / part / images / f"volume-{number:03d}.tiff", image, spacing=spacing)
            write_cube(folder / part / labels / f"label-{number:03d}.tiff", label, spacing=spacing)
    for number in artefacts:
        write_cube(folder / "train" / "artifacts" / f"volume-{number:03d}.tiff", axon_cube(100 + number, dtype=dtype)[0],
                   spacing=spacing)
    return folder


def write_source(folder: Path) -> list[str]:
    """Two brains with artefact and val cubes; the arguments of `nnneuro_convert axon` for them."""
    write_brain(folder / "Sert-NIBS", numbers=(1, 2), artefacts=(1,), val=(1,))
    write_brain(folder / "DCN-Stanford", numbers=(1,), images="cropped-cubes", dtype=np.uint8)
    return [str(folder)]
