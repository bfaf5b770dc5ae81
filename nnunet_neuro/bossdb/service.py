"""Questions to a BossDB service through intern: one request each, with a timeout, repeated after failures that pass.

intern itself sends a request without a timeout, asks once, ignores proxies and its configuration for `bossdb://` strings, and lets a
`~/.netrc` replace the token; so its remote is built here from explicit values and used for single requests only.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from nnunet_neuro.bossdb.access import PUBLIC_TOKEN, BossAccess
from nnunet_neuro.bossdb.address import CutoutAddress, Ranges

if TYPE_CHECKING:
    import requests
    from intern.remote.boss import BossRemote

Answer = TypeVar("Answer")
Pause = Callable[[float], Any]

_MICROMETRES = {"nanometers": 1e-3, "micrometers": 1.0, "millimeters": 1e3, "centimeters": 1e4}
_PASSING = (408, 429)  # besides 500 and above: the same request may be answered later
_of_thread = threading.local()


@dataclass(frozen=True)
class Channel:
    """What BossDB says of a channel, at its finest level, in the order z, y, x.

    Attributes:
        dtype: uint8, uint16 or uint64.
        start, stop: half-open extent in voxels.
        voxel_size: in micrometres.
        isotropic: whether coarser levels halve z too; else only y and x.
    """

    dtype: str
    start: tuple[int, int, int]
    stop: tuple[int, int, int]
    voxel_size: tuple[float, float, float]
    isotropic: bool

    def extent(self, resolution: int) -> Ranges:
        """Half-open extent in voxels of a level; odd lengths are rounded up, as BossDB does."""
        return tuple((start // factor, -(-stop // factor)) for start, stop, factor in zip(self.start, self.stop, self._factors(resolution)))

    def spacing(self, resolution: int) -> tuple[float, ...] | None:
        """Voxel size of a level in micrometres; None where BossDB holds no positive one."""
        # rounded, so that 6 nm are 0.006 and not 0.006000000000000001
        size = tuple(round(length * factor, 9) for length, factor in zip(self.voxel_size, self._factors(resolution)))
        return size if all(0 < length < float("inf") for length in size) else None

    def _factors(self, resolution: int) -> tuple[int, int, int]:
        halved = 2**resolution
        return (halved if self.isotropic else 1, halved, halved)


def describe_channel(access: BossAccess, address: CutoutAddress) -> Channel:
    """Ask for a channel's type, extent and voxel size (three requests).

    Raises:
        OSError: the service refuses, has no such channel, or does not answer.
    """
    from intern.resource.boss.resource import ChannelResource, CoordinateFrameResource, ExperimentResource

    def ask(resource: Any) -> Any:
        return _ask(access, f"channel {address.path}", lambda: _remote(access).get_project(resource))

    try:
        channel = ask(ChannelResource(address.channel, address.collection, address.experiment))
        experiment = ask(ExperimentResource(address.experiment, address.collection))
        frame = ask(CoordinateFrameResource(experiment.coord_frame))
        unit = _MICROMETRES[frame.voxel_unit]
        return Channel(
            dtype=channel.datatype,
            start=(int(frame.z_start), int(frame.y_start), int(frame.x_start)),
            stop=(int(frame.z_stop), int(frame.y_stop), int(frame.x_stop)),
            voxel_size=tuple(float(size) * unit for size in (frame.z_voxel_size, frame.y_voxel_size, frame.x_voxel_size)),
            isotropic=experiment.hierarchy_method == "isotropic",
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # what intern raises for a field that it misses or does not know
        raise OSError(f"{access.host} describes channel {address.path} in a way that intern does not understand "
                      f"({type(error).__name__}: {error}); choose a channel of uint8, uint16 or uint64 voxels") from error


def get_voxels(access: BossAccess, address: CutoutAddress, dtype: str, pause: Pause = time.sleep) -> np.ndarray:
    """Ask for the voxels of an address that states all of its ranges (one request).

    Args:
        access: the service.
        address: of at most one cuboid of BossDB (512 x 512 x 16 voxels).
        dtype: of the channel.
        pause: waits so many seconds between tries; may raise to give up.

    Returns:
        (z, y, x), of `dtype`; read-only.

    Raises:
        OSError: the service refuses, or gives no such voxels in all tries.
    """
    from blosc.blosc_extension import error as BloscError
    from intern.resource.boss.resource import ChannelResource

    z, y, x = (list(part) for part in address.ranges)
    resource = ChannelResource(address.channel, address.collection, address.experiment, datatype=dtype)

    def question() -> np.ndarray:
        try:
            return _remote(access).get_cutout(resource, address.resolution, x, y, z, parallel=False)
        except (BloscError, ValueError) as error:  # not blosc, or not the size that the ranges and the type make
            raise _UnusableAnswer(f"the answer holds no {z[1] - z[0]} x {y[1] - y[0]} x {x[1] - x[0]} {dtype} voxels ({error})") from error

    return _ask(access, str(address), question, pause)


class _UnusableAnswer(Exception):
    """Status 200 with something else than was asked for, as a proxy gives it now and then."""


def _remote(access: BossAccess) -> BossRemote:
    """intern's remote of this thread; sessions of requests are not made for several threads, nor for both sides of a fork."""
    remotes = _of_thread.__dict__.setdefault("remotes", {})
    key = (os.getpid(), access)
    if key not in remotes:
        remotes[key] = _connect(access)
    return remotes[key]


def _connect(access: BossAccess) -> BossRemote:
    from intern.remote.boss import BossRemote

    remote = BossRemote({"protocol": access.protocol, "host": access.host, "token": access.token})
    for service in (remote.project_service, remote.volume_service):
        # the url makes requests look up the environment's proxy for it, which intern's own call with None leaves out
        options = service.session.merge_environment_settings(access.url, {}, None, None, None)
        service.session_send_opts = {**options, "timeout": access.timeout_seconds}
        service.session.trust_env = False  # what is wanted of the environment is in the options; a ~/.netrc would replace the token
    return remote


def _ask(access: BossAccess, what: str, question: Callable[[], Answer], pause: Pause = time.sleep) -> Answer:
    """The answer to a question, which is asked again after a failure that may pass."""
    import requests

    for number in range(1, access.tries + 1):
        wanted = 0.0
        try:
            return question()
        except requests.HTTPError as error:  # intern raises it for every status but 200
            status = error.response.status_code
            if status not in _PASSING and status < 500:
                raise _refusal(access, what, error.response) from None
            problem, wanted = f"status {status}{_said(access, error.response)}", _retry_after(error.response)
        except requests.Timeout:
            problem = f"no answer within {access.timeout_seconds:g} s"
        except requests.exceptions.InvalidJSONError:
            problem = "the answer is no JSON"
        except requests.RequestException as error:
            problem = _root_of(error)
            if "CERTIFICATE_VERIFY_FAILED" in problem:
                raise OSError(f"the certificate of {access.host} could not be verified ({problem}); where a proxy signs for it, name its "
                              "certificates in REQUESTS_CA_BUNDLE") from error
        except _UnusableAnswer as error:
            problem = str(error)
        if number < access.tries:
            pause(_wait_seconds(access, number, wanted))
    raise OSError(f"{access.host} did not give {what} in {access.tries} tries, the last time because of: {problem}; run the same command "
                  "again later, what was fetched is kept")


def _wait_seconds(access: BossAccess, number: int, wanted: float) -> float:
    """Exponential, with jitter so that many clients do not come back at once, and not before the service wants it."""
    wait = access.first_wait_seconds * 2 ** (number - 1) * random.uniform(0.5, 1.5)
    return min(max(wait, wanted), access.longest_wait_seconds)


def _retry_after(response: requests.Response) -> float:
    """Seconds that the head Retry-After asks for, as a number or a date; 0 where it does not."""
    from email.utils import parsedate_to_datetime

    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def _refusal(access: BossAccess, what: str, response: requests.Response) -> OSError:
    status, said = response.status_code, _said(access, response)
    if status == 401:
        return PermissionError(f"{access.host} does not know the token (401{said}) that was sent for {what}; correct NNNEURO_BOSSDB_TOKEN "
                               "or --bossdb-token, or leave both out to use the public one")
    if status == 403:
        whose = "the public token" if access.token == PUBLIC_TOKEN else "the owner of this token"
        return PermissionError(f"{whose} may not read {what} on {access.host} (403{said}); set NNNEURO_BOSSDB_TOKEN to a token that may")
    if status == 404:
        return FileNotFoundError(f"{access.host} has no {what} (404{said}); check the spelling, names are case-sensitive")
    return OSError(f"{access.host} refused {what} with status {status}{said}; check resolution and ranges")


def _said(access: BossAccess, response: requests.Response) -> str:
    """What BossDB's own message says, shortened and without the token, should it repeat that."""
    try:
        answer = response.json()
        text = answer.get("message") or answer.get("detail") or ""
    except (AttributeError, ValueError):
        return ""
    text = " ".join(str(text).split())
    if access.token != PUBLIC_TOKEN:
        text = text.replace(access.token, "...")
    return f", {text[:200]!r}" if text else ""


def _root_of(error: BaseException) -> str:
    """The innermost cause, without the addresses of objects that urllib3 wraps around it."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return f"{type(error).__name__}: {error}"
