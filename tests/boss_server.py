"""A BossDB service on loopback: the part of its REST API that reading needs, with arrays of the test and, on demand, with faults.

    with BossServer() as server:
        server.add_channel("prasad/prasad2020/image", voxels, voxel_size=(1170, 1170, 1170))
        volume = open_cutout("bossdb://prasad/prasad2020/image", server.access(tmp_path))

Routes, fields, status codes and error bodies follow github.com/jhuapl-boss/boss (Apache-2.0): v1/collection/.../experiment/.../channel/...,
v1/coord/..., v1/cutout/COLLECTION/EXPERIMENT/CHANNEL/RESOLUTION/X0:X1/Y0:Y1/Z0:Z1/.
"""

from __future__ import annotations

import json
import random
import re
import socket
import ssl
import struct
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from nnunet_neuro.bossdb import BossAccess

# faults after which the same request may succeed, and those after which it cannot
PASSING = ("429", "500", "503", "stall", "reset", "short", "size", "html", "blosc")
FINAL = ("401", "403", "404")
_MESSAGES = {"401": {"detail": "Invalid token."}, "403": {"detail": "You do not have permission to perform this action."},
             "404": {"status": 404, "code": 4000, "message": "Channel not found"}, "429": {"message": "Throttled"},
             "500": {"status": 500, "code": 9002, "message": "Unhandled exception"}, "503": {"message": "Service Unavailable"}}
_HTML = b"<html><head><title>Gateway</title></head><body>One moment, please.</body></html>"
_CUTOUT = re.compile(r"/v1/cutout/([^/]+/[^/]+/[^/]+)/(\d+)/(\d+):(\d+)/(\d+):(\d+)/(\d+):(\d+)/")


@dataclass(frozen=True)
class Request:
    """One request that arrived: its path without the query, what it asks for, and the fault it met."""

    path: str
    cutout: bool
    fault: str | None
    authorization: str | None


@dataclass
class _Channel:
    extent: tuple[int, int, int]
    start: tuple[int, int, int]
    voxel_size: tuple[float, float, float]
    unit: str
    dtype: np.dtype
    isotropic: bool
    levels: int
    public: bool
    boxes: list[tuple[tuple[int, ...], np.ndarray]] = field(default_factory=list)

    def frame(self) -> tuple:
        return self.start, self.extent, self.voxel_size, self.unit, self.isotropic, self.levels

    def voxels(self, resolution: int, ranges: tuple[tuple[int, int], ...]) -> np.ndarray:
        """The voxels of a box (z, y, x) of a level: every second one for each level, zeros outside the arrays."""
        steps = (2**resolution if self.isotropic else 1, 2**resolution, 2**resolution)
        at = [np.arange(start, stop) * step for (start, stop), step in zip(ranges, steps)]
        result = np.zeros([len(positions) for positions in at], self.dtype)
        for corner, array in self.boxes:
            inside = [(positions >= low) & (positions < low + length) for positions, low, length in zip(at, corner, array.shape)]
            result[np.ix_(*inside)] = array[np.ix_(*(positions[mask] - low for positions, mask, low in zip(at, inside, corner)))]
        return result


class BossServer:
    """The service; a context manager that listens on a free port of 127.0.0.1.

    Attributes:
        requests: what arrived, in order.
        delay_seconds: how long each cutout takes.
    """

    def __init__(self, *, tokens: Iterable[str] = ("public",), certificate: Path | None = None):
        """
        Args:
            tokens: those the service knows; all but `public` may read channels that are not public.
            certificate: PEM file with key and certificate, for https.
        """
        self.tokens = set(tokens)
        self.requests: list[Request] = []
        self.delay_seconds = 0.0
        self.stall_seconds = 5.0
        self.retry_after = "0"
        self.stopping = threading.Event()
        self._channels: dict[str, _Channel] = {}
        self._faults: Iterator[str | None] = iter(())
        self._faults_of = "cutout"
        self._lock = threading.Lock()
        self._http = _Listener(("127.0.0.1", 0), _Handler)
        self._http.boss = self
        self.protocol = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
            self.protocol = "https"

    def __enter__(self) -> BossServer:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop listening; a second call does nothing."""
        if not self.stopping.is_set():
            self.stopping.set()
            self._http.shutdown()
            self._http.server_close()

    @property
    def host(self) -> str:
        """127.0.0.1:port, for `BossAccess.host`."""
        return f"127.0.0.1:{self._http.server_address[1]}"

    @property
    def address(self) -> str:
        """http://127.0.0.1:port, for NNNEURO_BOSSDB_HOST and --bossdb-host."""
        return f"{self.protocol}://{self.host}"

    def access(self, cache: Path, **options) -> BossAccess:
        """An access to this service that waits next to nothing between tries."""
        return BossAccess(**{"host": self.host, "protocol": self.protocol, "cache": cache, "first_wait_seconds": 0.005,
                             "longest_wait_seconds": 0.05, **options})

    def add_channel(self, path: str, array: np.ndarray, offset: tuple[int, int, int] = (0, 0, 0), *,
                    extent: tuple[int, int, int] | None = None, start: tuple[int, int, int] = (0, 0, 0),
                    voxel_size: tuple[float, float, float] = (1, 1, 1), unit: str = "nanometers", isotropic: bool = False,
                    levels: int = 1, public: bool = True) -> None:
        """Serve an array; called again for a channel, serve a further one, zeros being where no array is.

        Args:
            path: COLLECTION/EXPERIMENT/CHANNEL.
            array: (z, y, x) uint8, uint16 or uint64; uint64 makes an annotation channel.
            offset: (z, y, x) of its first voxel.
            extent: (z, y, x) where the channel ends, exclusive, which takes no memory; None for the end of the array.
            start: (z, y, x) where the channel begins.
            voxel_size: (x, y, z), the order of BossDB, in `unit`.
            unit: nanometers, micrometers, millimeters or centimeters.
            isotropic: whether coarser levels halve z too.
            levels: of the hierarchy.
            public: whether the token `public` may read it.
        """
        end = extent or tuple(first + length for first, length in zip(offset, array.shape))
        if path not in self._channels:
            channel = _Channel(end, start, voxel_size, unit, array.dtype, isotropic, levels, public)
            experiment = path.rpartition("/")[0]
            for other, known in self._channels.items():
                if other.rpartition("/")[0] == experiment and known.frame() != channel.frame():
                    raise ValueError(f"{path} and {other} are of one experiment, and so have one coordinate frame; give the same extent")
            self._channels[path] = channel
        known = self._channels[path]
        if array.dtype != known.dtype or any(o + length > e for o, length, e in zip(offset, array.shape, known.extent)):
            raise ValueError(f"array {array.shape} {array.dtype} at {offset} does not fit into {path}, {known.extent} {known.dtype}")
        known.boxes.append((tuple(offset), np.ascontiguousarray(array)))

    def misbehave(self, plan: Iterable[str | None] = (), *, rate: float = 0, seed: int = 0, kinds: Iterable[str] = PASSING,
                  on: str = "cutout") -> None:
        """Answer the next requests with faults.

        Args:
            plan: one entry per request, None for a proper answer; the rest are answered properly. `itertools.repeat("500")` never stops.
            rate: instead of a plan, the part of all requests that meet a fault.
            seed: of the faults that the rate gives.
            kinds: of these faults; see PASSING and FINAL.
            on: `cutout`, `metadata` or `all`: which requests the plan counts.
        """
        with self._lock:
            self._faults = _random_faults(rate, seed, tuple(kinds)) if rate else iter(plan)
            self._faults_of = on

    @property
    def cutouts(self) -> list[str]:
        """Paths of the cutouts that were asked for, in order."""
        return [request.path for request in self.requests if request.cutout]

    def take(self, path: str, authorization: str | None) -> str | None:
        """Note a request, and give the fault it shall meet."""
        cutout = path.startswith("/v1/cutout/")
        with self._lock:
            counted = self._faults_of in ("all", "cutout" if cutout else "metadata")
            fault = next(islice(self._faults, 1), None) if counted else None
            self.requests.append(Request(path, cutout, fault, authorization))
        return fault

    def answer(self, path: str, query: dict[str, list[str]], headers) -> tuple[int, str, bytes]:
        """Status, type and body of a proper answer."""
        token = (headers["Authorization"] or "").removeprefix("Token ")
        if token not in self.tokens:
            return _problem(401, "Invalid token.")
        if cutout := _CUTOUT.fullmatch(path):
            return self._cutout(token, cutout[1], [int(number) for number in cutout.groups()[1:]], query, headers)
        parts = path.strip("/").split("/")
        if parts[:2] == ["v1", "coord"] and len(parts) == 3:
            return self._frame(parts[2])
        if parts[:2] == ["v1", "collection"] and parts[3::2] == ["experiment", "channel"][: len(parts[3::2])]:
            return self._resource(token, parts[2::2])
        return _problem(404, "Not found.")

    def _cutout(self, token: str, path: str, numbers: list[int], query: dict, headers) -> tuple[int, str, bytes]:
        import blosc

        channel = self._channels.get(path)
        if channel is None:
            return _problem(404, f"Channel {path.rpartition('/')[2]} not found")
        if token == "public" and not channel.public:
            return _problem(403, "This user does not have the required permissions")
        if headers["Accept"] != "application/blosc" or query.get("access-mode") != ["no-cache"]:
            return _problem(400, "Unsupported transport format")
        resolution, *x, y0, y1, z0, z1 = numbers
        ranges = ((z0, z1), (y0, y1), tuple(x))
        inside = all(first <= start < stop <= last for (start, stop), first, last in zip(ranges, channel.start, channel.extent))
        if not inside or resolution >= channel.levels:
            return _problem(400, "Incorrect cutout arguments")
        self.stopping.wait(self.delay_seconds)
        voxels = channel.voxels(resolution, ranges)
        return 200, "application/blosc", blosc.compress(voxels, typesize=voxels.itemsize)

    def _frame(self, name: str) -> tuple[int, str, bytes]:
        known = {"frame_" + path.rpartition("/")[0].replace("/", "_"): channel for path, channel in self._channels.items()}
        if name not in known:
            return _problem(404, f"Coordinate frame {name} not found")
        channel = known[name]
        frame = {"name": name, "description": "", "voxel_unit": channel.unit}
        for axis, place in (("x", 2), ("y", 1), ("z", 0)):
            frame |= {f"{axis}_start": channel.start[place], f"{axis}_stop": channel.extent[place],
                      f"{axis}_voxel_size": float(channel.voxel_size[2 - place])}
        return _json(200, frame)

    def _resource(self, token: str, names: list[str]) -> tuple[int, str, bytes]:
        below = [path for path in self._channels if path.split("/")[: len(names)] == names]
        if not below:
            return _problem(404, f"{('Collection', 'Experiment', 'Channel')[len(names) - 1]} {names[-1]} not found")
        channel = self._channels[below[0]]
        common = {"name": names[-1], "description": "", "creator": "bossadmin"}
        if len(names) == 1:
            return _json(200, {**common, "experiments": sorted({path.split("/")[1] for path in below})})
        if len(names) == 2:
            return _json(200, {**common, "collection": names[0], "coord_frame": f"frame_{names[0]}_{names[1]}",
                               "num_hierarchy_levels": channel.levels, "num_time_samples": 1, "time_step": 0,
                               "hierarchy_method": "isotropic" if channel.isotropic else "anisotropic", "time_step_unit": "",
                               "channels": [path.split("/")[2] for path in below]})
        if token == "public" and not channel.public:
            return _problem(403, "You do not have permission to perform this action.")
        return _json(200, {**common, "experiment": names[1], "default_time_sample": 0, "base_resolution": 0, "sources": [], "related": [],
                           "type": "annotation" if channel.dtype == np.uint64 else "image", "datatype": str(channel.dtype),
                           "downsample_status": "NOT_DOWNSAMPLED", "public": channel.public})


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    boss: BossServer

    def handle_error(self, request, client_address) -> None:
        """Say nothing: a client that gave up, or a certificate it refused, is what the tests ask for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open, as at the real service
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        boss = self.server.boss
        parts = urlsplit(self.path)  # an address with host where the request came as to a proxy
        fault = boss.take(parts.path, self.headers["Authorization"])
        if fault == "stall":
            boss.stopping.wait(boss.stall_seconds)
            self.close_connection = True
        elif fault == "reset":
            # no lingering: closing sends RST in place of FIN; here, because the server would shut the connection down in order first
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.connection.close()
            self.close_connection = True
        elif fault == "html":
            self._send(200, "text/html", _HTML)
        elif fault is not None and fault in _MESSAGES:
            self._send(int(fault), "application/json", json.dumps(_MESSAGES[fault]).encode())
        else:
            self._send(*_spoilt(fault, *boss.answer(parts.path, parse_qs(parts.query), self.headers)), short=fault == "short")

    def _send(self, status: int, kind: str, body: bytes, *, short: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if status in (429, 503):
            self.send_header("Retry-After", self.server.boss.retry_after)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if short else body)
        if short:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _random_faults(rate: float, seed: int, kinds: tuple[str, ...]) -> Iterator[str | None]:
    generator = random.Random(seed)
    while True:
        yield generator.choice(kinds) if generator.random() < rate else None


def _spoilt(fault: str | None, status: int, kind: str, body: bytes) -> tuple[int, str, bytes]:
    """A proper answer, or one whose blosc data is of another size or broken in the middle of its header."""
    import blosc

    if fault == "size":
        body = blosc.compress(bytes(1000), typesize=1)
    elif fault == "blosc":
        body = body[:4] + bytes(byte ^ 0x5A for byte in body[4:16]) + body[16:]
    return status, kind, body


def _problem(status: int, message: str) -> tuple[int, str, bytes]:
    return _json(status, {"status": status, "code": 4000, "message": message})


def _json(status: int, content: dict) -> tuple[int, str, bytes]:
    return status, "application/json", json.dumps(content).encode()


@pytest.fixture
def boss_server(monkeypatch) -> Iterator[BossServer]:
    """A BossDB service on loopback, which a proxy of the environment shall not stand before."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    for name in ("NNNEURO_BOSSDB_HOST", "NNNEURO_BOSSDB_TOKEN", "NNNEURO_CACHE"):
        monkeypatch.delenv(name, raising=False)
    with BossServer() as server:
        yield server
