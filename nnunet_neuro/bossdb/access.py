"""Which BossDB service is asked, with which token, how patiently, and where its answers are kept."""

from __future__ import annotations

import argparse
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

PUBLIC_TOKEN = "public"
_HOST = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*(:[0-9]{1,5})?")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")


@dataclass(frozen=True)
class BossAccess:
    """One choice of service, token and cache; hashable and picklable.

    Nothing is taken from intern's own settings (`~/.intern/intern.cfg`, INTERN_TOKEN) or from a `~/.netrc`: the token is the one given
    here. It appears in no message, no `repr`, and no file of the cache.

    Attributes:
        host: name of the service, with a port where it needs one.
        protocol: https, or http for a service on the own machine.
        token: the service's token; `public` reads public channels.
        cache: folder of the downloaded chunks, shared by all runs; None becomes $NNNEURO_CACHE, else nnunet_neuro/bossdb below
            $XDG_CACHE_HOME or ~/.cache. What is in it is taken as it is: delete a channel's folder to fetch it anew.
        timeout_seconds: how long a connection may take, and how long it may stay silent.
        tries: requests for one answer, the first included.
        first_wait_seconds: before the second try, give or take half of it; doubled before each further one.
        longest_wait_seconds: limit of a wait, also of one that the service asks for.

    Raises:
        ValueError: a value that cannot be right.
    """

    host: str = "api.bossdb.io"
    protocol: str = "https"
    token: str = field(default=PUBLIC_TOKEN, repr=False)
    cache: Path | None = None
    timeout_seconds: float = 60
    tries: int = 5
    first_wait_seconds: float = 1
    longest_wait_seconds: float = 60

    def __post_init__(self) -> None:
        if self.protocol not in ("https", "http"):
            raise ValueError(f"BossDB protocol {self.protocol!r} is not possible; choose https or http")
        if not _HOST.fullmatch(self.host):
            raise ValueError(f"BossDB host {self.host!r} is not possible; expected a name such as api.bossdb.io or 127.0.0.1:8000")
        if not _TOKEN.fullmatch(self.token):  # also keeps line breaks out of intern's configuration and of the request's head
            raise ValueError("the BossDB token holds a character that no token has (letters, digits and . _ ~ + / = - are possible); "
                             "copy it again")
        if self.timeout_seconds <= 0 or self.tries < 1 or self.first_wait_seconds < 0 or self.longest_wait_seconds < 0:
            raise ValueError(f"{self} is not possible; the timeout must be positive, waits at least 0 and tries at least 1")
        # now, so that a worker with another working folder or environment finds the same chunks
        object.__setattr__(self, "cache", Path(self.cache).expanduser().absolute() if self.cache else default_cache())

    @classmethod
    def from_environment(cls, *, host: str | None = None, token: str | None = None, cache: str | Path | None = None) -> BossAccess:
        """The access that the environment describes; arguments go before it.

        NNNEURO_BOSSDB_HOST: a name such as api.bossdb.io, or an address such as http://127.0.0.1:8000.
        NNNEURO_BOSSDB_TOKEN: a token of yours; without it the public one.
        NNNEURO_CACHE: folder of downloaded chunks.

        Raises:
            ValueError: a host or token that cannot be right.
        """
        address = host or os.environ.get("NNNEURO_BOSSDB_HOST") or cls.host
        protocol, separator, name = address.rpartition("://")
        return cls(host=name.removesuffix("/"), protocol=protocol if separator else cls.protocol,
                   token=token or os.environ.get("NNNEURO_BOSSDB_TOKEN") or cls.token, cache=Path(cache) if cache else None)

    @property
    def url(self) -> str:
        """Protocol and host, without a slash at the end."""
        return f"{self.protocol}://{self.host}"

    @property
    def folder(self) -> Path:
        """Where the cache keeps what this host answered."""
        return self.cache / self.host.replace(":", "_")


def default_cache() -> Path:
    """$NNNEURO_CACHE, else nnunet_neuro/bossdb below $XDG_CACHE_HOME or ~/.cache.

    Raises:
        ValueError: there is no home folder either.
    """
    chosen = os.environ.get("NNNEURO_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME") or "")
    if not base.is_absolute():  # the XDG specification says to ignore a relative one
        try:
            base = Path.home() / ".cache"
        except RuntimeError as error:
            raise ValueError("found no home folder for the cache of BossDB; set NNNEURO_CACHE or give --cache") from error
    return base / "nnunet_neuro" / "bossdb"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that converters share; `access_from` reads them."""
    group = parser.add_argument_group("BossDB")
    group.add_argument("--cache", type=Path, metavar="DIR",
                       help="folder of downloaded chunks, shared by all runs (default: $NNNEURO_CACHE, else ~/.cache/nnunet_neuro/bossdb)")
    group.add_argument("--bossdb-host", metavar="HOST",
                       help=f"name or http address of the service (default: $NNNEURO_BOSSDB_HOST, else {BossAccess.host})")
    group.add_argument("--bossdb-token", metavar="TOKEN",
                       help="other users of the machine can read it here: better set NNNEURO_BOSSDB_TOKEN (default: the public token)")


def access_from(arguments: argparse.Namespace) -> BossAccess:
    """The access that the options of `add_arguments` and the environment describe."""
    return BossAccess.from_environment(host=arguments.bossdb_host, token=arguments.bossdb_token, cache=arguments.cache)
