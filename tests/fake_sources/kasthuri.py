"""The AC4 block of the Kasthuri Challenge on a BossDB of loopback, with the real channels and task files; 128 of 1024 pixels are filled."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np

from tests.boss_server import BossServer

EXTENT = (100, 1024, 1024)
SIDE = 128
# first voxel (y, x) of what is filled: within the ranges of both tasks
CORNER = (244, 244)
EM, MEMBRANE, SYNAPSE = "Kasthuri/ac4/em", "Kasthuri/ac4/membrane", "Kasthuri/ac4/synapse"

_COMMON = {"image_chan": f"bossdb://{EM}", "z_train": [0, 80], "z_val": [80, 90], "z_test": [90, 100], "volume_z": 1,
           "tile_size": [256, 256]}  # fmt: skip


def task_files() -> dict[str, dict]:
    """The content of the challenge's task files by their names."""
    return {
        "membrane_task.json": {"name": "membrane_task", "annotation_chan": f"bossdb://{MEMBRANE}", "xrange_vol": [10, 522],
                               "yrange_vol": [12, 524], **_COMMON, "task_type": "membrane", "threshold": False},
        "synapse_task.json": {"name": "synapse_task", "annotation_chan": f"bossdb://{SYNAPSE}", "xrange_vol": [244, 756],
                              "yrange_vol": [244, 756], **_COMMON, "task_type": "synapse", "threshold": True, "threshold_value": 0.1},
    }  # fmt: skip


def small_task(kind: str, **changes) -> dict:
    """A task file of the filled pixels, four tiles in a plane."""
    y, x = CORNER
    return {**task_files()[f"{kind}_task.json"], "xrange_vol": [x, x + SIDE], "yrange_vol": [y, y + SIDE], "tile_size": [64, 64], **changes}


def write_task(folder: Path, task: dict) -> Path:
    """`folder`/<name>.json."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{task['name']}.json"
    path.write_text(json.dumps(task, indent=4))
    return path


def block(*, planes: int = EXTENT[0], side: int = SIDE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """EM (uint8), membrane 0/1 and synapse 0/1 (z, y, x): a honeycomb that drifts from plane to plane, with synapses on its walls."""
    z, y, x = np.ogrid[:planes, :side, :side]
    membrane = ((y + z // 3) % 24 < 3) | ((x + z // 2) % 32 < 3)
    synapse = ((y + z // 3) % 48 < 4) & ((x - z) % 64 < 8)
    em = 150 - 80 * membrane - 30 * synapse + np.random.default_rng(3).integers(0, 25, membrane.shape)
    return em.astype(np.uint8), membrane.astype(np.uint64), synapse.astype(np.uint64)


def serve(boss: BossServer, arrays: tuple[np.ndarray, ...], *, corner: tuple[int, int] = CORNER) -> BossServer:
    """Fill the channels of a service: EM, membranes, synapses."""
    for path, array in zip((EM, MEMBRANE, SYNAPSE), arrays):
        boss.add_channel(path, array, (0, *corner), extent=EXTENT, voxel_size=(6, 6, 30))
    return boss


@functools.cache
def server() -> BossServer:
    """One service for all tests of a run; its threads end with the process."""
    return serve(BossServer().__enter__(), block())


def options(folder: Path) -> list[str]:
    """Where the service and the cache are."""
    return ["--bossdb-host", server().address, "--cache", str(folder)]


def write_source(folder: Path) -> list[str]:
    """Both classes in a few planes; the arguments of `nnneuro_convert kasthuri` for them."""
    planes = {"z_train": [0, 8], "z_val": [8, 10], "z_test": [10, 12]}
    paths = [write_task(folder, small_task(kind, **planes)) for kind in ("membrane", "synapse")]
    return [*(word for path in paths for word in ("--task-config", str(path))), *options(folder / "cache")]
