"""MTNeuro on a BossDB of loopback, with the real channels, coordinates and task files; 32 of the 256 pixels of each region are filled."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np

from tests.boss_server import BossServer

EXTENT = (720, 1420, 5805)
PLANES = (110, 471)
# first voxel (y, x) of each region, with the fraction of its axons
REGIONS = {"cor": ((900, 4600), 0.0), "stri": ((500, 3700), 0.17), "vp": ((850, 3063), 0.4), "zi": ((650, 1543), 0.3)}
AREA = {"cor": 1, "stri": 2, "vp": 4, "zi": 5}
SIDE = 32
IMAGE, PIXELS, AREAS = "prasad/prasad2020/image", "prasad/prasad_analysis/pixel_labels", "prasad/prasad_analysis/roi_labels"

_TASK2 = {"annotation_chan": "bossdb://prasad/prasad_analysis/pixel_labels"}
_DIFFERENCES = {
    "task1.json": {"annotation_chan": "bossdb://prasad/prasad_analysis/roi_labels"},
    "task2.json": {**_TASK2, "task_type": "normal", "combine_ax_and_bg": 0, "noZI": 0},
    "task2_2D_3class.json": {**_TASK2, "task_type": "3class", "combine_ax_and_bg": 1, "noZI": 0},
    "task2_2D_4class.json": {**_TASK2, "task_type": "noZI", "combine_ax_and_bg": 0, "noZI": 1},
    "task2_3D_3class.json": {**_TASK2, "volume_z": 8, "task_type": "3class", "combine_ax_and_bg": 1, "noZI": 0},
    "task2_3D_4class.json": {**_TASK2, "volume_z": 8, "task_type": "noZI", "combine_ax_and_bg": 0, "noZI": 1},
    "task3.json": {**_TASK2, "zrange": [110, 470], "z_train": [110, 470], "task_type": "normal", "combine_ax_and_bg": 0, "noZI": 0,
                   "encoder_type": "ssl", "encoder_path": "weights.pt"},
}  # fmt: skip


def task_files() -> dict[str, dict]:
    """The content of MTNeuro's task files by their names."""
    tasks = {}
    for name, differences in _DIFFERENCES.items():
        ranges = {}
        for suffix, ((y, x), _) in REGIONS.items():
            ranges |= {f"xrange_{suffix}": [x, x + 256], f"yrange_{suffix}": [y, y + 256]}
        tasks[name] = {"name": name.removesuffix(".json"), "image_chan": f"bossdb://{IMAGE}", **ranges, "zrange": [110, 471],
                       "z_train": [110, 379], "z_val": [380, 409], "z_test": [420, 470], "volume_z": 1, "tile_size": [256, 256],
                       **differences}  # fmt: skip
    return tasks


def small_task(name: str, *, side: int = SIDE, **changes) -> dict:
    """A task file whose cutouts are the filled pixels, and whose tile is all of them."""
    task = task_files()[name]
    for suffix, ((y, x), _) in REGIONS.items():
        task |= {f"xrange_{suffix}": [x, x + side], f"yrange_{suffix}": [y, y + side]}
    return {**task, "tile_size": [side, side], **changes}


def write_task(folder: Path, task: dict) -> Path:
    """`folder`/<name>.json."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{task['name']}.json"
    path.write_text(json.dumps(task, indent=4))
    return path


@functools.cache
def tissue(suffix: str, *, side: int = SIDE) -> np.ndarray:
    """Pixel labels (z, y, x) uint8 of a region: axons in bundles, cells as balls, vessels as tubes through all planes."""
    generator = np.random.default_rng(list(REGIONS).index(suffix))
    z, y, x = (axis.astype(np.int32) for axis in np.ogrid[: PLANES[1] - PLANES[0], :side, :side])
    labels = ((y + x + z // 4) % 16 < 16 * REGIONS[suffix][1]) * np.uint8(3)
    for _ in range(labels.size // 3000):
        centre = [generator.integers(0, length) for length in labels.shape]
        around = tuple(slice(max(0, c - 4), c + 5) for c in centre)
        ball = sum((axis - c) ** 2 for axis, c in zip((z[around[0]], y[:, around[1]], x[..., around[2]]), centre)) <= 9
        labels[around][np.broadcast_to(ball, labels[around].shape)] = 2
    for number in range(2):
        tube = (y - (side // 4 + number * side // 2)) ** 2 + (x - (side // 2 + 3 * np.sin(z / 9 + number))) ** 2 <= 5
        labels[np.broadcast_to(tube, labels.shape)] = 1
    labels.flags.writeable = False  # shared by all that ask
    return labels


def areas(suffix: str, *, side: int = SIDE) -> np.ndarray:
    """Area labels (z, y, x) uint8 of a region, with a corner of internal capsule; none from plane 460 on, as in BossDB."""
    labels = np.full((PLANES[1] - PLANES[0], side, side), AREA[suffix], np.uint8)
    labels[:, : side // 4, : side // 4] = 6
    labels[460 - PLANES[0]:] = 0
    return labels


def grey(labels: np.ndarray) -> np.ndarray:
    """An image (uint8) of pixel labels: axons bright, vessels and cells dark."""
    noise = np.random.default_rng(7).integers(0, 30, labels.shape, np.uint8)
    return np.array([100, 60, 40, 130], np.uint8)[labels] + noise


def serve(boss: BossServer, *, side: int = SIDE, suffixes: tuple[str, ...] = tuple(REGIONS), with_areas: bool = True) -> BossServer:
    """Fill the channels of a service."""
    for suffix in suffixes:
        offset = (PLANES[0], *REGIONS[suffix][0])
        labels = tissue(suffix, side=side)
        add(boss, IMAGE, grey(labels), offset)
        add(boss, PIXELS, labels.astype(np.uint64), offset)
        if with_areas:
            add(boss, AREAS, areas(suffix, side=side).astype(np.uint64), offset)
    return boss


def add(boss: BossServer, path: str, array: np.ndarray, offset: tuple[int, int, int]) -> None:
    """One box of a channel in the coordinate frame of the real one."""
    boss.add_channel(path, array, offset, extent=EXTENT, voxel_size=(1170, 1170, 1170))


@functools.cache
def server() -> BossServer:
    """One service for all tests of a run; its threads end with the process."""
    return serve(BossServer().__enter__())


def options(folder: Path) -> list[str]:
    """Where the service and the cache are."""
    return ["--bossdb-host", server().address, "--cache", str(folder)]


def write_source(folder: Path) -> list[str]:
    """A task of few planes, the last of them unlabelled; the arguments of `nnneuro_convert mtneuro` for it."""
    task = small_task("task1.json", z_train=[140, 150], z_val=[151, 154], z_test=[458, 462])
    return ["--task-config", str(write_task(folder, task)), "--areas", "4", *options(folder / "cache")]
