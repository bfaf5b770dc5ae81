"""A cutout of BossDB as a lazy volume, and the download of all the chunks it needs."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from nnunet_neuro.bossdb.access import BossAccess
from nnunet_neuro.bossdb.address import AXES, CutoutAddress, Ranges, parse_address
from nnunet_neuro.bossdb.chunks import Chunk, chunks_touching, load_channel, remove_left_overs, save_channel
from nnunet_neuro.bossdb.service import Channel, Pause, describe_channel, get_voxels
from nnunet_neuro.volumes.volume import Region, Source, Volume


def open_cutout(address: str | CutoutAddress, access: BossAccess, *, may_be_empty: bool = False) -> Volume:
    """Open a cutout; only the channel's description is asked for, and that only where the cache does not hold it.

    Voxels come from the cache, chunk by chunk; chunks that it lacks are fetched when they are read. `fetch` brings all of them at once,
    several at a time. With a full cache no request is made.

    Args:
        address: as `parse_address` explains it.
        access: service, token and cache.
        may_be_empty: whether the cutout may be zero everywhere, as a label of a place without the structure. Else that is an error,
            raised by `fetch` and by reading the whole of the cutout: BossDB answers with zeros where a channel was never filled.

    Returns:
        (z, y, x), uint8 or uint16 for images and uint64 for annotations, spacing in micrometres.

    Raises:
        ValueError: the address is none, or leaves the channel's extent.
        OSError: the service refuses, has no such channel, or does not answer.
    """
    wanted = parse_address(address) if isinstance(address, str) else address
    remove_left_overs(access)
    channel = load_channel(access, wanted)
    if channel is None:
        channel = describe_channel(access, wanted)
        save_channel(access, wanted, channel)
    wanted = replace(wanted, ranges=_ranges_within(wanted, channel))
    cutout = _Cutout(wanted, channel, access, may_be_empty)
    return Volume(str(wanted), cutout.shape, np.dtype(channel.dtype), channel.spacing(wanted.resolution),
                  partial(_read_cutout, cutout), lister=partial(_sources_of_cutout, cutout))


def fetch(volumes: Sequence[Volume], access: BossAccess | None = None, *, progress: bool = True, connections: int = 4) -> None:
    """Download what the cache lacks of some cutouts, then check that none of them is empty that must not be.

    It can be interrupted at any time, also by a kill: every chunk that arrived is kept, and the next call asks for the others only.
    Several processes may fetch into one cache.

    Args:
        volumes: cutouts, or what was cut or computed from them, for which only the chunks of that part are fetched; volumes from
            elsewhere are passed over.
        access: as given to `open_cutout`; None for what each was opened with.
        progress: show the voxels and MB/s (of voxels, before compression) on stderr.
        connections: requests at a time.

    Raises:
        ValueError: a cutout is zero everywhere and may not be, or was opened with another service or cache.
        OSError: the service refuses or does not answer, or the cache cannot be written.
        KeyboardInterrupt: interrupted; what is complete is kept.
    """
    chunks: dict[Path, Chunk] = {}
    cutouts: dict[_Cutout, None] = {}
    for volume in volumes:
        cutout, region = _place_of(volume)
        if cutout is None:
            continue
        used = access or cutout.access
        if (cutout.access.host, cutout.access.cache) != (used.host, used.cache):
            raise ValueError(f"{volume.path} was opened on {cutout.access.host} with cache {cutout.access.cache}; fetch it with the same, "
                             f"not with {access.host} and {access.cache}")
        cutouts[cutout] = None
        chunks.update((chunk.path, replace(chunk, access=used)) for chunk in cutout.chunks(region))
    _download(list(chunks.values()), progress, connections)
    for cutout in cutouts:
        _check_not_empty(cutout)


@dataclass(frozen=True)
class _Cutout:
    """What a worker needs to read a cutout; the ranges of the address are all written out."""

    address: CutoutAddress
    channel: Channel
    access: BossAccess
    may_be_empty: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(stop - start for start, stop in self.address.ranges)

    def chunks(self, region: Region) -> Iterator[Chunk]:
        """The chunks that hold voxels of a region of the cutout."""
        ranges = tuple((first + part.start, first + part.stop) for (first, _), part in zip(self.address.ranges, region))
        for chunk in chunks_touching(ranges, self.channel.extent(self.address.resolution)):
            yield Chunk(self.access, replace(self.address, ranges=chunk), self.channel.dtype)

    def overlap(self, chunk: Chunk, region: Region) -> tuple[Region, Region]:
        """Where a chunk and a region of the cutout meet: in voxels of the chunk, and of the region."""
        in_chunk, in_region = [], []
        for (first, _), (start, stop), part in zip(self.address.ranges, chunk.address.ranges, region):
            low, high = max(start, first + part.start), min(stop, first + part.stop)
            in_chunk.append(slice(low - start, high - start))
            in_region.append(slice(low - first - part.start, high - first - part.start))
        return tuple(in_chunk), tuple(in_region)


def _ranges_within(address: CutoutAddress, channel: Channel) -> Ranges:
    """The address's ranges, those left out replaced by the channel's extent."""
    extent = channel.extent(address.resolution)
    ranges = tuple(extent[number] if given is None else given for number, given in enumerate(address.ranges))
    if not all(first <= start < stop <= last for (start, stop), (first, last) in zip(ranges, extent)):
        whole = ", ".join(f"{axis} {first}:{last}" for axis, (first, last) in zip(AXES, extent))
        raise ValueError(f"{address} leaves its channel, whose extent at resolution {address.resolution} is {whole}; correct the ranges")
    return ranges


# --- reading -----------------------------------------------------------------------------------------------------------------------


def _read_cutout(cutout: _Cutout, path: Path | str, region: Region) -> np.ndarray:
    voxels = np.empty(tuple(part.stop - part.start for part in region), cutout.channel.dtype)
    for chunk in cutout.chunks(region):
        in_chunk, in_region = cutout.overlap(chunk, region)
        voxels[in_region] = _load_or_get(chunk)[in_chunk]
    if voxels.shape == cutout.shape and not cutout.may_be_empty and not voxels.any():
        raise _empty(cutout)
    return voxels


def _sources_of_cutout(cutout: _Cutout, path: Path | str, region: Region) -> list[Source]:
    """The chunk files that hold a region, whole ones; those that are missing are fetched, so that they can be hashed."""
    sources = []
    for chunk in cutout.chunks(region):
        if not chunk.is_cached():
            _get(chunk)
        sources.append(Source(str(chunk.address), chunk.path))
    return sources


def _load_or_get(chunk: Chunk) -> np.ndarray:
    if not chunk.is_cached():
        return _get(chunk)
    state = chunk.path.stat()
    return _load_as_it_was(chunk, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=8)
def _load_as_it_was(chunk: Chunk, size: int, mtime_ns: int) -> np.ndarray:
    """Remembered as long as the file stays as it was: planes are read one by one, and a chunk has sixteen."""
    voxels = chunk.load()
    voxels = _get(chunk) if voxels is None else voxels
    voxels.flags.writeable = False  # all who ask share it
    return voxels


def _get(chunk: Chunk, pause: Pause = time.sleep) -> np.ndarray:
    voxels = get_voxels(chunk.access, chunk.address, chunk.dtype, pause)
    chunk.save(voxels)
    return voxels


def _check_not_empty(cutout: _Cutout) -> None:
    """Look for a voxel that is not zero; one chunk is enough in most cutouts."""
    if cutout.may_be_empty:
        return
    whole = tuple(slice(0, length) for length in cutout.shape)
    for chunk in cutout.chunks(whole):
        voxels = chunk.load()
        # a chunk that nobody asked for, in a cutout of which a crop was fetched, may hold something
        if voxels is None or voxels[cutout.overlap(chunk, whole)[0]].any():
            return
    raise _empty(cutout)


def _empty(cutout: _Cutout) -> ValueError:
    return ValueError(f"{cutout.address} is zero everywhere; BossDB answers so where a channel holds no voxels: check channel, resolution "
                      "and ranges")


# --- downloading -------------------------------------------------------------------------------------------------------------------


def _place_of(volume: Volume) -> tuple[_Cutout | None, Region]:
    """The cutout that a volume was cut or computed from, and where in it; None for a volume from elsewhere."""
    while True:
        shape = (1, *volume.shape) if volume.plane_of else volume.shape
        region = tuple(slice(start, start + length) for start, length in zip(volume.corner or (0,) * len(shape), shape))
        if volume.base is None:
            break
        volume = volume.base.crop(region)
    reader = volume.reader
    return reader.args[0] if isinstance(reader, partial) and reader.func is _read_cutout else None, region


def _download(chunks: list[Chunk], progress: bool, connections: int) -> None:
    if not chunks:
        return
    from tqdm import tqdm

    # several processes that fetch the same chunks begin at different ones, and each finds those of the others in the cache
    first = random.randrange(len(chunks))
    stop = threading.Event()
    pool = ThreadPoolExecutor(connections)
    futures = [pool.submit(_get_if_missing, chunk, stop) for chunk in chunks[first:] + chunks[:first]]
    bar = tqdm(desc=f"BossDB {chunks[0].access.host}", total=sum(chunk.voxels for chunk in chunks), unit="voxel", unit_scale=True,
               disable=not progress, leave=False)
    began, done, received = time.monotonic(), 0, 0
    try:
        for future in as_completed(futures):
            voxels, size = future.result()
            done, received = done + 1, received + size
            bar.set_postfix_str(f"{received / 1e6 / max(time.monotonic() - began, 1e-3):.1f} MB/s", refresh=False)
            bar.update(voxels)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted after {done} of {len(chunks)} chunks of BossDB; run the same command again to "
                                "continue") from None
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        bar.close()


def _get_if_missing(chunk: Chunk, stop: threading.Event) -> tuple[int, int]:
    """Voxels of the chunk, and the bytes that came for them."""

    def pause(seconds: float) -> None:
        if stop.wait(seconds):
            raise InterruptedError("another chunk failed")

    if chunk.is_cached():
        return chunk.voxels, 0
    return chunk.voxels, _get(chunk, pause).nbytes
