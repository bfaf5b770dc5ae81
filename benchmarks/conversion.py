"""Conversion of axon cubes against a plain loop of tifffile reads and writes at equal compression.

    python benchmarks/conversion.py [--cubes 200] [--side 150] [--folder /scratch]

Makes cubes from the sample data by mirrored tiling plus one grey value of noise per copy, so that they compress like real ones. Each
way runs `--rounds` times, in turn, and the fastest run counts, because other work on the machine only ever makes a run slower.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
from tqdm import tqdm

from nnunet_neuro.commands.convert import main as convert

SAMPLE = Path(__file__).parents[1] / "nnunet_neuro" / "sample_data" / "axons" / "dlmbmap" / "train"


def main() -> None:
    """Make the cubes, time the three ways, print MB/s and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cubes", type=int, default=200)
    parser.add_argument("--side", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        _compare(Path(temporary), arguments.cubes, arguments.side, arguments.rounds)


def _compare(folder: Path, cubes: int, side: int, rounds: int) -> None:
    brain = folder / "brain"
    megabytes = _make_cubes(brain, cubes, side)
    ways = {"plain loop": lambda: _plain_loop(brain, folder / "loop")}
    for workers in (1, 2):
        name = f"nnneuro_convert, {workers} worker{'s' * (workers > 1)}"
        ways[name] = lambda workers=workers: _convert(brain, folder / "raw", workers)
    seconds = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            seconds[name] = min(seconds[name], time.perf_counter() - begun)
    _check_equal(folder)
    print(f"{cubes} cubes of {side}^3 uint16 with uint8 labels, {megabytes:.0f} MB of voxels, best of {rounds}")
    for name, taken in seconds.items():
        print(f"{name:<30}{taken:8.1f} s {megabytes / taken:8.1f} MB/s   {taken / seconds['plain loop']:.2f} x the plain loop")


def _make_cubes(brain: Path, cubes: int, side: int) -> float:
    image, label = (tifffile.imread(SAMPLE / name / file) for name, file in
                    (("volumes", "volume-001.tiff"), ("Fine-label", "label-001.tiff")))
    pad = [(0, max(0, side - length)) for length in image.shape]
    image, label = (np.pad(array, pad, mode="symmetric")[:side, :side, :side] for array in (image, label))
    generator = np.random.default_rng(0)
    for number in tqdm(range(1, cubes + 1), desc="making cubes", leave=False):
        noisy = image + generator.integers(0, 2, image.shape, dtype=np.uint16)
        for part, name, array in (("volumes", "volume", noisy), ("Fine-label", "label", label)):
            path = brain / "train" / part / f"{name}-{number:03d}.tiff"
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, array, imagej=True, resolution=(1, 1), metadata={"axes": "ZYX", "spacing": 1.0, "unit": "um"})
    return cubes * (image.nbytes + label.nbytes) / 1e6


def _plain_loop(brain: Path, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    for path in sorted((brain / "train" / "volumes").iterdir()):
        label = brain / "train" / "Fine-label" / path.name.replace("volume", "label")
        tifffile.imwrite(out / path.name, tifffile.imread(path), photometric="minisblack", compression="zlib")
        tifffile.imwrite(out / label.name, (tifffile.imread(label) > 0).astype(np.uint8), photometric="minisblack", compression="zlib")


def _convert(brain: Path, raw: Path, workers: int) -> None:
    shutil.rmtree(raw, ignore_errors=True)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert convert(["axon", str(brain), "--raw", str(raw), "--workers", str(workers)]) == 0


def _check_equal(folder: Path) -> None:
    """Both ways wrote the same voxels in about the same number of bytes."""
    one, other = folder / "loop" / "volume-001.tiff", folder / "raw" / "Dataset701_Axons" / "imagesTr" / "brain_001_0000.tif"
    np.testing.assert_array_equal(tifffile.imread(one), tifffile.imread(other))
    assert abs(one.stat().st_size / other.stat().st_size - 1) < 0.01


if __name__ == "__main__":
    main()
