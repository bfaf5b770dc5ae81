"""The folder that keeps what is finished of a search for objects, so that an interrupted one continues."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_neuro.components.grid import BlockGrid
from nnunet_neuro.components.parts import SavedParts
from nnunet_neuro.raw_dataset import worker_pool
from nnunet_neuro.raw_formats import write_json

_LOCK = "lock"
_IDENTITY = "identity.json"
_FINISHED = {"finished": True}


@dataclass(frozen=True)
class WorkFolder:
    """Where blocks are kept; picklable.

    Attributes:
        path: the folder.
        grid: the blocks.
    """

    path: Path
    grid: BlockGrid

    def parts_file(self, index: int) -> Path:
        """The file of the parts of a block."""
        return self.path / "parts" / f"{index:07d}.npz"

    def open_parts(self, index: int) -> SavedParts:
        """The parts of a finished block."""
        return SavedParts(self.parts_file(index))

    def written_file(self, index: int) -> Path:
        """An empty file that stands for a block whose objects are written."""
        return self.path / "written" / f"{index:07d}"

    def for_each_block(self, function: Callable[[int], None], done: Callable[[int], Path], title: str, *, workers: int,
                       progress: bool) -> None:
        """Call `function` for every block for which the file `done(block)` is not there; bar in voxels on stderr.

        Raises:
            KeyboardInterrupt: interrupted; what is finished stays.
            OSError: a worker died.
        """
        from tqdm import tqdm

        done(0).parent.mkdir(exist_ok=True)
        finished = {path.name for path in done(0).parent.iterdir()}
        missing = [index for index in range(len(self.grid)) if done(index).name not in finished]
        total, left = (sum(map(self.grid.voxels, blocks)) for blocks in (range(len(self.grid)), missing))
        count = len(self.grid) - len(missing)
        with tqdm(total=total, initial=total - left, desc=title, unit="voxel", unit_scale=True, disable=not progress, leave=False) as bar:
            try:
                for index in _calls(function, missing, workers):
                    count += 1
                    bar.update(self.grid.voxels(index))
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"interrupted after {count} of {len(self.grid)} blocks ({title}); run the same command again to "
                                        "continue") from None
            except BrokenProcessPool as error:
                raise OSError(f"a worker died after {count} of {len(self.grid)} blocks ({title}), killed or for want of memory; run the "
                              "same command again with --workers 1 to continue") from error


@contextmanager
def opened(path: Path, grid: BlockGrid, identity: Mapping[str, Any]) -> Iterator[WorkFolder]:
    """Make or continue a work folder, and remove it when the block ends well.

    Raises:
        FileExistsError: another process works there.
        ValueError: it was begun with something else.
    """
    from filelock import FileLock, Timeout

    path.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path / _LOCK, timeout=0):
            _check_identity(path, json.loads(json.dumps(identity)))
            yield WorkFolder(path, grid)
            write_json(path / _IDENTITY, _FINISHED)  # first, so that what is left of a killed removal is never continued
            _empty(path)
            (path / _IDENTITY).unlink()
            (path / _LOCK).unlink(missing_ok=True)
    except Timeout as error:
        raise FileExistsError(f"another process is finding objects in {path}; wait until it is done") from error
    with suppress(OSError):  # another process may have begun there since
        path.rmdir()


def _check_identity(path: Path, identity: dict[str, Any]) -> None:
    file = path / _IDENTITY
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    if found == _FINISHED:
        _empty(path)
        write_json(file, identity)
    elif found is None:
        if any(child.name not in (_LOCK, f".{_IDENTITY}.partial") for child in path.iterdir()):
            raise ValueError(f"{path} holds something else than the blocks of objects; choose another work folder, or remove it")
        write_json(file, identity)
    elif differing := [key for key in (*identity, *found) if found.get(key) != identity.get(key)]:
        key = differing[0]
        raise ValueError(f"{path} was begun with {key} {found.get(key)!r}, now asked for {identity.get(key)!r}; ask for the same to "
                         "continue, or remove the folder")


def _empty(path: Path) -> None:
    for child in path.iterdir():
        if child.is_dir():
            shutil.rmtree(child)
        elif child.name not in (_LOCK, _IDENTITY):
            child.unlink()


def _calls(function: Callable[[int], None], blocks: list[int], workers: int) -> Iterator[int]:
    """The blocks as they are done."""
    if workers <= 1:
        for index in blocks:
            function(index)
            yield index
        return
    pool = worker_pool(workers)
    pending: dict[Future, int] = {}
    try:
        for index in blocks:
            pending[pool.submit(function, index)] = index
            if len(pending) >= 2 * workers:  # bounded, so that few calls wait in memory
                yield from _taken(pending, wait(pending, return_when=FIRST_COMPLETED).done)
        yield from _taken(pending, wait(pending).done)
    finally:
        pool.shutdown(cancel_futures=True)


def _taken(pending: dict[Future, int], done: set[Future]) -> Iterator[int]:
    for future in done:
        future.result()
        yield pending.pop(future)
