"""Throughput and peak memory of converting a large Zarr volume with its label, against a smaller one.

    python benchmarks/large_volume.py [--gigabytes 2] [--workers 2] [--folder /scratch]

Makes OME-Zarr volumes of uint16 voxels from the sample data by mirrored tiling, one of the full size and one of a quarter of it, and
converts both with `nnneuro_convert volumes`, in processes of their own whose peak memory (of the parent and of its largest worker) Linux
keeps. A plain loop reads the same blocks and writes the same TIFFs, for the ratio.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import tifffile
import zarr
from tqdm import tqdm

SAMPLE = Path(__file__).parents[1] / "nnunet_neuro" / "sample_data" / "axons" / "dlmbmap" / "train"
CHUNK = (64, 128, 128)
CASE = (256, 512, 512)
_CONVERT = "import sys; from nnunet_neuro.commands.convert import main; sys.exit(main(sys.argv[1:]))"


def main() -> None:
    """Make the volumes, convert them, print MB/s, peaks and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of image voxels (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder); needs about 1.5 times the size")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        _compare(Path(temporary), arguments.gigabytes, arguments.workers)


def _compare(folder: Path, gigabytes: float, workers: int) -> None:
    results = {}
    for name, size in (("quarter", gigabytes / 4), ("full", gigabytes)):
        shape = _shape(size)
        megabytes = _make(folder / name, shape)
        results[name] = _convert(folder, name, workers)
        results[name].update(megabytes=megabytes, shape=shape)
        if name == "full":
            loop = _plain_loop(folder / name, folder / "loop")
        shutil.rmtree(folder / name)
    for name, result in results.items():
        print(f"{name:<8}{'x'.join(map(str, result['shape'])):>16} {result['megabytes']:8.0f} MB in {result['seconds']:6.1f} s, "
              f"{result['megabytes'] / result['seconds']:6.1f} MB/s; peak of the parent {result['parent']:.2f} GB, of a worker "
              f"{result['worker']:.2f} GB")
    full, quarter = results["full"], results["quarter"]
    print(f"peak of the full volume to that of the quarter: parent {full['parent'] / quarter['parent']:.2f}, worker "
          f"{full['worker'] / quarter['worker']:.2f}")
    print(f"plain loop over the same blocks, one process: {loop:.1f} s; conversion with {workers} workers takes "
          f"{full['seconds'] / loop:.2f} of it")


def _shape(gigabytes: float) -> tuple[int, int, int]:
    """A volume of whole cases along y and x and as many planes as the size needs."""
    height = width = 1024
    return max(CASE[0], round(gigabytes * 1e9 / 2 / height / width / CHUNK[0]) * CHUNK[0]), height, width


def _make(folder: Path, shape: tuple[int, int, int]) -> float:
    folder.mkdir()
    image, label = (tifffile.imread(SAMPLE / name) for name in ("volumes/volume-001.tiff", "Fine-label/label-001.tiff"))
    for name, cube in (("image", image), ("label", (label > 0).astype(np.uint8))):
        stored = zarr.create_array(str(folder / f"{name}.zarr"), shape=shape, chunks=CHUNK, dtype=cube.dtype,
                                   config={"write_empty_chunks": True})
        plane = np.pad(cube, ((0, 0), *((0, length - side) for length, side in zip(shape[1:], cube.shape[1:]))), mode="symmetric")
        block = np.pad(plane, ((0, max(0, CHUNK[0] - len(plane))), (0, 0), (0, 0)), mode="symmetric")[: CHUNK[0]]
        for z in tqdm(range(0, shape[0], CHUNK[0]), desc=f"making {name}", leave=False):
            stored[z:z + CHUNK[0]] = np.roll(block, z, axis=2)[: shape[0] - z]
    return float(np.prod(shape)) * 3 / 1e6


def _arguments(folder: Path, name: str, workers: int) -> list[str]:
    return ["volumes", "--image", str(folder / name / "image.zarr"), "--label", str(folder / name / "label.zarr"), "--labels", "1=axon",
            "--spacing", "3,1.6,1.6", "--case-size", ",".join(map(str, CASE)), "--raw", str(folder / f"raw_{name}"),
            "--workers", str(workers)]


def _convert(folder: Path, name: str, workers: int) -> dict:
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", _CONVERT, *_arguments(folder, name, workers)], stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE)
    peaks: dict[int, float] = {}
    while process.poll() is None:
        for one in _family(process.pid):
            peaks[one] = max(peaks.get(one, 0.0), _peak_gigabytes(one))
        time.sleep(0.05)
    assert process.returncode == 0, process.stderr.read()
    return {"seconds": time.perf_counter() - begun, "parent": peaks.pop(process.pid), "worker": max(peaks.values())}


def _family(pid: int) -> list[int]:
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return [pid]


def _peak_gigabytes(pid: int) -> float:
    """Peak resident memory that Linux keeps for a process; 0 for one that is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1e6 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


def _plain_loop(source: Path, out: Path) -> float:
    """Read each block and write it as nnU-Net wants it, with nothing checked or recorded."""
    from nnunet_neuro.blocks import tile

    out.mkdir()
    image, label = (zarr.open_array(str(source / f"{name}.zarr"), mode="r") for name in ("image", "label"))
    begun = time.perf_counter()
    for number, region in enumerate(tile(image.shape, CASE)):
        for name, array in (("image", image), ("label", label)):
            tifffile.imwrite(out / f"{name}{number}.tif", array[region], photometric="minisblack", compression="zlib")
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
