"""The chunks of a channel: where they lie, and their files in the cache, which are checked whenever they are read."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from nnunet_neuro.bossdb.access import BossAccess
from nnunet_neuro.bossdb.address import AXES, CutoutAddress, Ranges
from nnunet_neuro.bossdb.service import Channel

# (z, y, x); divides BossDB's cuboids of 16 x 512 x 512, which start at 0, so that a request reads one cuboid only
CHUNK_SHAPE = (16, 256, 256)

_DIGEST_BYTES = 32
_PARTIAL = ".partial"
_LEFT_OVER_SECONDS = 600  # a file is written in far less than a second
_blosc_lock = threading.Lock()


def chunks_touching(ranges: Ranges, extent: Ranges) -> Iterator[Ranges]:
    """The chunks that hold voxels of a box: a grid from 0, cut off at the extent of the channel."""
    per_axis = []
    for (start, stop), (first, last), size in zip(ranges, extent, CHUNK_SHAPE):
        corners = range(start - start % size, stop, size)
        per_axis.append([(max(corner, first), min(corner + size, last)) for corner in corners])
    return itertools.product(*per_axis)


@dataclass(frozen=True)
class Chunk:
    """One chunk of a channel, and its file.

    The file holds a SHA-256 over what the chunk is and its blosc data, then the data: a file that was cut off, changed, renamed or
    written for a channel of another name is recognised.
    """

    access: BossAccess
    address: CutoutAddress
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        """(z, y, x)."""
        return tuple(stop - start for start, stop in self.address.ranges)

    @property
    def voxels(self) -> int:
        """How many."""
        return int(np.prod(self.shape))

    @property
    def path(self) -> Path:
        """The file, whether it exists or not."""
        z, *rest = (f"{axis}{start}-{stop}" for axis, (start, stop) in zip(AXES, self.address.ranges))
        return channel_folder(self.access, self.address) / str(self.address.resolution) / z / f"{'_'.join(rest)}.chunk"

    def is_cached(self) -> bool:
        """Whether its file is there and whole; a damaged one is dropped."""
        return self._payload() is not None

    def load(self) -> np.ndarray | None:
        """The voxels (z, y, x), read-only; None where there is no whole file."""
        import blosc

        payload = self._payload()
        return None if payload is None else np.frombuffer(blosc.decompress(payload), self.dtype).reshape(self.shape)

    def save(self, voxels: np.ndarray) -> None:
        """Write the file; another process may do the same at the same time.

        Raises:
            OSError: no space, or no permission.
        """
        payload = _compress(voxels)
        _write_whole(self.access, self.path, self._digest(payload) + payload)

    def _payload(self) -> bytes | None:
        try:
            content = self.path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        payload = content[_DIGEST_BYTES:]
        if content[:_DIGEST_BYTES] == self._digest(payload):
            return payload
        _warn(f"{self.path} is damaged; it is dropped and fetched again")
        self.path.unlink(missing_ok=True)
        return None

    def _digest(self, payload: bytes) -> bytes:
        identity = f"{self.access.host} {self.address} {self.dtype}\n"
        return hashlib.sha256(identity.encode() + payload).digest()


def load_channel(access: BossAccess, address: CutoutAddress) -> Channel | None:
    """The description of a channel that `save_channel` kept; None where there is no whole one."""
    path = channel_folder(access, address) / "channel.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        facts = content["channel"]
        if content["sha256"] == _channel_digest(access, address, facts):
            return Channel(**{name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError):
        pass
    _warn(f"{path} is damaged; it is dropped and fetched again")
    return None


def save_channel(access: BossAccess, address: CutoutAddress, channel: Channel) -> None:
    """Keep the description of a channel beside its chunks."""
    facts = json.loads(json.dumps(asdict(channel)))
    content = {"channel": facts, "sha256": _channel_digest(access, address, facts)}
    _write_whole(access, channel_folder(access, address) / "channel.json", json.dumps(content, indent=1).encode())


def channel_folder(access: BossAccess, address: CutoutAddress) -> Path:
    """`cache/host/collection/experiment/channel`."""
    return access.folder / address.collection / address.experiment / address.channel


def remove_left_overs(access: BossAccess) -> None:
    """Remove the partial files of processes that died; those of live ones are younger."""
    try:
        for path in (access.cache / _PARTIAL).iterdir():
            if time.time() - path.stat().st_mtime > _LEFT_OVER_SECONDS:
                path.unlink()
    except OSError:  # no such folder, another process was faster, or a shared cache that may only be read
        pass


def _channel_digest(access: BossAccess, address: CutoutAddress, facts: dict) -> str:
    return hashlib.sha256(f"{access.host} {address.path} {json.dumps(facts, sort_keys=True)}".encode()).hexdigest()


def _write_whole(access: BossAccess, path: Path, content: bytes) -> None:
    """Write to a name of this process and thread alone, then rename: a reader sees all of it or nothing."""
    partial = access.cache / _PARTIAL / f"{os.getpid()}-{uuid.uuid4().hex}"
    try:
        for folder in (partial.parent, path.parent):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(content)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(f"cannot write {path} ({error.strerror or error}); make room or give another folder with --cache or "
                      "NNNEURO_CACHE") from error


def _compress(voxels: np.ndarray) -> bytes:
    import blosc

    # with several threads blosc writes the same voxels as other bytes each time, and the hashes of sources would tell nothing
    with _blosc_lock:
        threads = blosc.set_nthreads(1)
        try:
            return blosc.compress(np.ascontiguousarray(voxels), typesize=voxels.itemsize, clevel=3, cname="zstd")
        finally:
            blosc.set_nthreads(threads)


def _warn(sentence: str) -> None:
    print(f"warning: {sentence}", file=sys.stderr)
