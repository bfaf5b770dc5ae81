"""A cheap block task for tests: it writes a function of the coordinates into a Zarr array and notes which process computed what."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr

from nnunet_neuro.predict.engines import compute_blocks
from nnunet_neuro.predict.run_state import BlockReport, RunState
from nnunet_neuro.predict.runs import shard
from nnunet_neuro.predict.windows import Block, block_grid

SHAPE = (40, 24, 36)
BLOCKS = block_grid(SHAPE, chunk=(4, 12, 12), size=(4, 12, 12))  # 6 columns of 10


@dataclass(frozen=True)
class Coordinates:
    """Writes 7 z + 5 y + 3 x modulo 251.

    Attributes:
        folder: with the array `labels`, and `log` with a line "process block" for each block that is begun.
        seconds: that a block takes.
        kill_at: block that kills its process.
        kills: how often it does so.
        fail_at: block that raises OSError.
    """

    folder: Path
    seconds: float = 0.0
    kill_at: int | None = None
    kills: int = 0
    fail_at: int | None = None

    def open(self) -> Callable[[Block], BlockReport]:
        with (self.folder / "opened").open("a") as stream:
            stream.write(f"{os.getpid()}\n")
        return self.compute

    def compute(self, block: Block) -> BlockReport:
        began = time.monotonic()
        with (self.folder / "log").open("a") as stream:
            stream.write(f"{os.getpid()} {block.index}\n")
        if block.index == self.kill_at and computed(self.folder).count(block.index) <= self.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        if block.index == self.fail_at:
            raise OSError(f"chunk of block {block.index} is damaged; copy it again")
        labels = expected()[block.region]
        zarr.open_array(str(self.folder / "labels"), mode="r+")[block.region] = labels
        time.sleep(self.seconds)
        return BlockReport(labels.size, time.monotonic() - began, 1, 0, hashlib.sha256(labels.tobytes()).hexdigest())


def new_output(folder: Path) -> Path:
    """An empty array in the folder."""
    zarr.open_array(str(folder / "labels"), mode="w", shape=SHAPE, chunks=(4, 12, 12), dtype="uint8", fill_value=255)
    return folder


def written(folder: Path) -> np.ndarray:
    return zarr.open_array(str(folder / "labels"), mode="r")[:]


def expected() -> np.ndarray:
    z, y, x = np.indices(SHAPE)
    return ((7 * z + 5 * y + 3 * x) % 251).astype(np.uint8)


def log(folder: Path) -> list[tuple[int, int]]:
    """(process, block) in the order in which blocks were begun."""
    file = folder / "log"
    return [tuple(map(int, line.split())) for line in file.read_text().splitlines()] if file.is_file() else []


def computed(folder: Path) -> list[int]:
    """Blocks in the order in which they were begun."""
    return [index for _, index in log(folder)]


def check_complete(folder: Path, state: RunState) -> None:
    """All is written, and nothing is left of the run but its result."""
    np.testing.assert_array_equal(written(folder), expected())
    assert state.finished() == {block.index for block in BLOCKS}
    assert sum(report.voxels for report in state.reports().values()) == expected().size
    assert sorted(path.name for path in state.folder.iterdir()) == ["finished", "identity.json"]
    assert all(path.suffix == ".json" and not path.name.startswith(".") for path in (state.folder / "finished").iterdir())
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def main(folder: str, seconds: str = "0", workers: str = "1", share: str = "") -> None:
    """What the tests start as a program of its own."""
    state = RunState.open(Path(folder) / "state", {"task": "coordinates"})
    print("begun", flush=True)
    try:
        compute_blocks(Coordinates(Path(folder), float(seconds)), shard(BLOCKS, share) if share else BLOCKS, state, workers=int(workers),
                       progress=False)
    except KeyboardInterrupt as interruption:
        print(interruption, flush=True)
        sys.exit(2)
