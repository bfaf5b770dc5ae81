"""Addresses of cutouts: `bossdb://collection/experiment/channel[/resolution][?z=110:471&y=900:1156&x=4600:4856]`."""

from __future__ import annotations

import re
from dataclasses import dataclass

AXES = ("z", "y", "x")
# half-open (start, stop) of each axis in the order z, y, x
Ranges = tuple[tuple[int, int], ...]

_SCHEME = "bossdb://"
_EXPECTED = "bossdb://collection/experiment/channel[/resolution][?z=110:471&y=900:1156&x=4600:4856]"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")  # what BossDB allows, and no folder can be left with it
_NUMBER = re.compile(r"[0-9]{1,15}")
_COARSEST = 30  # no hierarchy has so many levels; without a limit a slip of the finger would compute 2 to its power


@dataclass(frozen=True)
class CutoutAddress:
    """A box of a channel; `str()` gives the address in its one canonical spelling.

    Attributes:
        collection, experiment, channel: names in BossDB, case-sensitive.
        resolution: level of the hierarchy, 0 the finest.
        ranges: half-open (start, stop) for z, y and x in voxels of that level; None for all of an axis.

    Raises:
        ValueError: a name, the resolution or a range that cannot exist.
    """

    collection: str
    experiment: str
    channel: str
    resolution: int = 0
    ranges: tuple[tuple[int, int] | None, ...] = (None, None, None)

    def __post_init__(self) -> None:
        for what in ("collection", "experiment", "channel"):
            if not _NAME.fullmatch(name := getattr(self, what)):
                raise ValueError(f"{what} {name!r} is no BossDB name; names hold letters, digits, _ and - only: expected {_EXPECTED}")
        if not 0 <= self.resolution <= _COARSEST:
            raise ValueError(f"resolution {self.resolution} of {self.path} is not possible; 0 is the finest level, {_COARSEST} the limit")
        if len(self.ranges) != len(AXES):
            raise ValueError(f"{len(self.ranges)} ranges for {self.path}; expected one for each of z, y and x")
        for axis, given in zip(AXES, self.ranges):
            if given is not None and not 0 <= given[0] < given[1]:
                raise ValueError(f"range {axis}={given[0]}:{given[1]} of {self.path} is empty; ranges are half-open, so the second number "
                                 "must be larger than the first: 0:16 are 16 voxels")

    def __str__(self) -> str:
        query = "&".join(f"{axis}={given[0]}:{given[1]}" for axis, given in zip(AXES, self.ranges) if given is not None)
        return f"{_SCHEME}{self.path}/{self.resolution}" + (f"?{query}" if query else "")

    @property
    def path(self) -> str:
        """`collection/experiment/channel`."""
        return f"{self.collection}/{self.experiment}/{self.channel}"


def parse_address(text: str) -> CutoutAddress:
    """The cutout that an address means.

    Ranges are half-open, in voxels of the resolution (0 where none is given): `?z=110:471&y=900:1156&x=4600:4856` in any order, an axis
    left out meaning all of it, or `?110:471,900:1156,4600:4856` in the order z, y, x.

    Raises:
        ValueError: the text is no such address.
    """
    if not text.startswith(_SCHEME):
        raise ValueError(f"{text!r} is no BossDB address; expected {_EXPECTED}")
    path, question, query = text[len(_SCHEME):].partition("?")
    parts = path.removesuffix("/").split("/")
    if parts[0] in ("http:", "https:"):
        raise ValueError(f"{text!r} names a host; expected {_EXPECTED}, and the host in --bossdb-host or NNNEURO_BOSSDB_HOST")
    if len(parts) not in (3, 4):
        raise ValueError(f"{text!r} has {len(parts)} parts between slashes; expected {_EXPECTED}")
    resolution = parts[3] if len(parts) == 4 else "0"
    if not _NUMBER.fullmatch(resolution):
        raise ValueError(f"resolution {resolution!r} in {text!r} is not a whole number; expected {_EXPECTED}")
    ranges = _parse_ranges(query, text) if question else (None, None, None)
    return CutoutAddress(*parts[:3], resolution=int(resolution), ranges=ranges)


def _parse_ranges(query: str, text: str) -> tuple[tuple[int, int] | None, ...]:
    if "=" not in query:
        given = query.split(",")
        if len(given) != len(AXES):
            raise ValueError(f"{text!r} gives {len(given)} ranges after the question mark; expected three, in the order z, y, x, or named "
                             "ones such as z=110:471&y=900:1156&x=4600:4856")
        return tuple(_parse_range(axis, numbers, text) for axis, numbers in zip(AXES, given))
    found: dict[str, tuple[int, int]] = {}
    for part in query.split("&"):
        axis, _, numbers = part.partition("=")
        if axis not in AXES:
            raise ValueError(f"{part!r} in {text!r} names no axis; expected z=START:STOP, y=START:STOP and x=START:STOP, joined with &")
        if axis in found:
            raise ValueError(f"{text!r} gives a range for {axis} twice; keep one")
        found[axis] = _parse_range(axis, numbers, text)
    return tuple(found.get(axis) for axis in AXES)


def _parse_range(axis: str, numbers: str, text: str) -> tuple[int, int]:
    start, colon, stop = numbers.partition(":")
    if not (colon and _NUMBER.fullmatch(start) and _NUMBER.fullmatch(stop)):
        raise ValueError(f"{numbers!r} for axis {axis} in {text!r} is no range; expected START:STOP in whole numbers, such as 110:471")
    return int(start), int(stop)
