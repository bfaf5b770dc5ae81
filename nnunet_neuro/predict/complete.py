"""Files and folders that appear under their name when they are complete, or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """A free name beside `target`, for a file or folder that is renamed to it when the block ends well and removed when not.

    Raises:
        FileExistsError: the target is there, perhaps since another process made it during the block.
        OSError: disk full or read-only.
    """
    taken = f"{target} exists already; choose another output, or remove it"
    if target.exists():
        raise FileExistsError(taken)
    unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    with writing(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            yield unfinished
            try:
                unfinished.rename(target)
            except OSError as error:
                raise FileExistsError(taken) from error if target.exists() else error
        finally:
            remove(unfinished)


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Tell in one sentence why a disk takes nothing more.

    Raises:
        OSError: what the block raised.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise OSError(f"no space left for {target}; what is finished stays: make room and run the same command again to "
                          "continue") from error
        if error.errno in _NOT_WRITABLE:
            raise PermissionError(f"{target} cannot be written to ({os.strerror(error.errno)}); choose another output") from error
        raise


def leftovers_beside(target: Path) -> list[Path]:
    """What killed processes left of `appearing`."""
    return [path for path in target.parent.glob(".*.partial") if path.name.startswith(f".{target.name}.")]


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
