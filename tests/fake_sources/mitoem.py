"""MitoEM's archives and EManalysis' folders, a few voxels large."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

# above what 8 and 16 bits hold; modulo 65536 the second would be background and the third the first
IDS = (7, 65536, 65543, 70000)
TRAIN, VAL, TEST = range(0, 6), range(6, 9), range(9, 12)  # MitoEM: 0-399, 400-499, 500-999
CODES = (23299, 23300, 22241, 22243, 23261)


def mitochondria(seed: int, shape: tuple[int, int, int] = (9, 20, 24), ids: tuple[int, ...] = IDS) -> tuple[np.ndarray, np.ndarray]:
    """A noisy EM volume with dark tubes along z, and their ids; the first two touch."""
    generator = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint64)
    rows, columns = np.mgrid[: shape[1], : shape[2]]
    for number, identifier in enumerate(ids):
        for z in range(shape[0]):
            inside = np.hypot(rows - 5 - 9 * (number // 2) - z % 2, columns - 5 - 9 * (number % 2)) < 4.6
            labels[z][inside & (labels[z] == 0)] = identifier
    image = generator.integers(110, 160, shape) - 60 * (labels > 0)
    return image.astype(np.uint8), labels


def write_png_slices(folder: Path, array: np.ndarray, *, prefix: str = "im", first: int = 0) -> Path:
    """`folder`/im0000.png and so on, 8 or 16 bits."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, plane in enumerate(array, first):
        Image.fromarray(plane).save(folder / f"{prefix}{number:04d}.png")
    return folder


def write_tiff_slices(folder: Path, array: np.ndarray, *, prefix: str = "seg", first: int = 0) -> Path:
    """`folder`/seg0000.tif and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, plane in enumerate(array, first):
        tifffile.imwrite(folder / f"{prefix}{number:04d}.tif", plane)
    return folder


def write_rgb_ids(folder: Path, ids: np.ndarray) -> Path:
    """Ids packed in the colours of PNG slices, as VAST exports them."""
    packed = np.stack([(ids >> 16) & 255, (ids >> 8) & 255, ids & 255], axis=-1).astype(np.uint8)
    return write_png_slices(folder, packed, prefix="seg")


def write_mitoem(folder: Path, *, letter: str = "R", seed: int = 1, parts: tuple[str, ...] = ("train", "val")) -> Path:
    """`folder`/EM30-R-im/im and `folder`/EM30-R-mito-train-val-v2/mito-{train,val}-v2, as the archives unpack."""
    image, ids = mitochondria(seed, (len(TRAIN) + len(VAL) + len(TEST), 20, 24))
    write_png_slices(folder / f"EM30-{letter}-im" / "im", image)
    for part, planes in (("train", TRAIN), ("val", VAL)):
        if part in parts:
            write_tiff_slices(folder / f"EM30-{letter}-mito-train-val-v2" / f"mito-{part}-v2",
                              ids[planes.start : planes.stop].astype(np.uint32), first=planes.start)
    return folder


def write_animal(folder: Path, *, seed: int = 1, classes: bool = True, first: int = 0) -> Path:
    """`folder`/em_export, mito_export_unique_id and, with `classes`, mito_export_maingroups, in 16-bit PNG slices."""
    image, ids = mitochondria(seed, ids=(1, 2, 300, 65535))
    write_png_slices(folder / "em_export", image, prefix="mito_s", first=first)
    write_png_slices(folder / "mito_export_unique_id", ids.astype(np.uint16), prefix="mito_s", first=first)
    if classes:
        write_png_slices(folder / "mito_export_maingroups", class_codes(ids), prefix="mito_s", first=first)
    return folder


def class_codes(ids: np.ndarray) -> np.ndarray:
    """The classes of EManalysis, one per object in the order of ids; the first plane is painted wrongly, as by a slip of the hand."""
    codes = np.zeros(ids.shape, np.uint16)
    for number, identifier in enumerate(np.unique(ids[ids > 0])):
        codes[ids == identifier] = CODES[number % len(CODES)]
    codes[0][ids[0] > 0] = CODES[3]
    return codes


def write_source(folder: Path) -> list[str]:
    """Rat and human volumes of MitoEM; the arguments of `nnneuro_convert mitoem` for them."""
    write_mitoem(folder, letter="R", seed=1)
    write_mitoem(folder, letter="H", seed=2)
    return [str(folder), "--keep-instances", "--case-size", "6,20,12"]
