"""Image and label volumes as a laboratory keeps them: one TIFF and one label per volume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile


def write_pair(folder: Path, name: str, *, shape: tuple[int, int, int] = (8, 12, 10), values: tuple[int, ...] = (0, 1, 2)) -> None:
    """`folder`/em/NAME.tif and `folder`/seg/NAME.tif."""
    generator = np.random.default_rng(len(name) + ord(name[-1]))
    for part, array in (("em", generator.integers(0, 4000, shape).astype(np.uint16)),
                        ("seg", generator.choice(values, shape).astype(np.uint8))):
        (folder / part).mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / part / f"{name}.tif", array, photometric="minisblack")


def write_source(folder: Path) -> list[str]:
    """Three training volumes and a test volume; the arguments of `nnneuro_convert volumes` for them."""
    for name in ("train1", "train2", "train3"):
        write_pair(folder, name)
    write_pair(folder / "held-out", "test1")
    return ["--image", f"{folder}/em/{{case}}.tif", "--label", f"{folder}/seg/{{case}}.tif", "--labels", "1=membrane,2=synapse",
            "--test-image", f"{folder}/held-out/em/{{case}}.tif", "--test-label", f"{folder}/held-out/seg/{{case}}.tif",
            "--spacing", "0.03,0.006,0.006"]
