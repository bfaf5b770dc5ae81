"""What is finished of a run, on disk, so that it continues after any interruption and several processes may share it.

    FOLDER/identity.json       what the run computes from what; another identity is refused
    FOLDER/finished/17.json    block 17 is written; the file appears after the block's data
    FOLDER/claims/17.lock      a process computes block 17; the system lifts the lock of a process that dies, and a lock file without a
                               lock means nothing
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnunet_neuro.predict.complete import appearing, leftovers_beside, remove, writing
from nnunet_neuro.raw_formats import write_json

_IDENTITY = "identity.json"


@dataclass(frozen=True)
class BlockReport:
    """What was done for one block.

    Attributes:
        voxels: of the block.
        seconds: of computing it, reading and writing included.
        windows: that went through the network.
        skipped: windows that were background and did not.
        digest: of the block's labels.
    """

    voxels: int
    seconds: float
    windows: int
    skipped: int
    digest: str


class RunState:
    """The state of a run in its folder; picklable, nothing is kept in memory."""

    def __init__(self, folder: Path):
        self.folder = folder

    @classmethod
    def open(cls, folder: str | Path, identity: Mapping[str, Any]) -> RunState:
        """Begin a run, or continue one; several processes may do so at once.

        Args:
            folder: made unless it is there.
            identity: what makes a difference to the output: hash of the model, files of the input, options. JSON values.

        Raises:
            ValueError: the folder belongs to a run of another identity, or to no run.
            OSError: the folder cannot be written to.
        """
        folder = Path(folder)
        wanted = json.loads(json.dumps(identity))
        if not folder.exists():
            _create(folder, wanted)
        try:
            found = json.loads((folder / _IDENTITY).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder} is not the state of a run ({error}); remove it, or choose another output") from error
        if found != wanted:
            raise ValueError(f"{folder} belongs to a run with {_difference(found, wanted)}; choose another output, ask for the same, or "
                             "remove both to begin anew")
        return cls(folder)

    def finished(self) -> set[int]:
        """Indices of the blocks that are written."""
        return {int(file.name[:-len(".json")]) for file in os.scandir(self.folder / "finished") if not file.name.startswith(".")}

    def is_finished(self, index: int) -> bool:
        """Whether a block is written."""
        return self._marker(index).is_file()

    def mark_finished(self, index: int, report: BlockReport) -> None:
        """Say that a block is written; the caller holds its claim.

        Raises:
            OSError: no space left, or not allowed; what is finished stays.
        """
        with writing(self.folder):
            write_json(self._marker(index), asdict(report))

    def reports(self) -> dict[int, BlockReport]:
        """The report of every finished block, sorted by index."""
        return {index: BlockReport(**json.loads(self._marker(index).read_text(encoding="utf-8"))) for index in sorted(self.finished())}

    def claim(self, index: int) -> Claim | None:
        """Take a block, for a `with` statement; nobody else gets it until that ends.

        Returns:
            None where the block is finished, or a living process has it: `is_finished` tells which.

        Raises:
            OSError: the folder cannot be written to.
        """
        from filelock import FileLock, Timeout

        if self.is_finished(index):
            return None
        lock = FileLock(self.folder / "claims" / f"{index}.lock")
        with writing(self.folder):
            (self.folder / "claims").mkdir(exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return None
        claim = Claim(self, index, lock)
        if self.is_finished(index):  # by someone who held the claim until now
            claim.release()
            return None
        return claim

    def tidy(self) -> None:
        """Remove what only a run in progress needs; a process that still computes something loses nothing."""
        for leftover in leftovers_beside(self.folder):
            remove(leftover)
        with suppress(OSError):  # not empty: someone has a claim
            (self.folder / "claims").rmdir()

    def _marker(self, index: int) -> Path:
        return self.folder / "finished" / f"{index}.json"


class Claim:
    """A block that this process computes; a lock that dies with the process."""

    def __init__(self, state: RunState, index: int, lock: Any):
        self._state, self._index, self._lock = state, index, lock

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def release(self) -> None:
        """Give the block back, or, where it is finished, away."""
        if self._state.is_finished(self._index):
            # only then: whoever opened the file before sees that the block is finished, and no two processes lock files of one name
            with suppress(OSError):
                Path(self._lock.lock_file).unlink()
        self._lock.release()


def _create(folder: Path, identity: dict[str, Any]) -> None:
    """The folder appears with its identity at once, so that two processes never begin two runs in it."""
    with suppress(FileExistsError), appearing(folder) as unfinished:  # another process may be faster
        (unfinished / "finished").mkdir(parents=True)
        write_json(unfinished / _IDENTITY, identity)


def _difference(found: Any, wanted: Any, name: str = "") -> str:
    """The first difference, `step 0.5, now asked for 0.7`."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        key = next(key for key in {**wanted, **found} if found.get(key) != wanted.get(key))
        return _difference(found.get(key), wanted.get(key), f"{name}.{key}" if name else key)
    return f"{name} {json.dumps(found)}, now asked for {json.dumps(wanted)}"
