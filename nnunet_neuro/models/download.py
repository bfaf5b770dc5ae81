"""Model zips from the web: through pooch, resumable, with their hash checked before anybody opens them."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256 as sha256_hash
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_neuro.models.archive import MOST_BYTES

if TYPE_CHECKING:
    import requests

_TIMEOUT = (15, 60)  # seconds to connect, and of silence
_TRIES = 5  # in a row without a byte
_PASSING = (408, 425, 429)  # besides 500 and above: the same request may be answered later
_BLOCK = 64 * 1024


@contextmanager
def downloaded(url: str, sha256: str | None, *, cache: Path | None = None) -> Iterator[Path]:
    """A file from the web, removed when it was used; what was interrupted is continued by the next call.

    Args:
        url: http or https.
        sha256: of the file; None where it is not known.
        cache: folder for the file; None for nnunet_neuro/models in the user's cache folder.

    Raises:
        OSError: no connection, no such address, or it broke off too often.
        ValueError: the file has another hash.
    """
    import pooch
    from filelock import FileLock, Timeout

    pooch.get_logger().setLevel("WARNING")  # else it says where its temporary file is
    folder = (cache or Path(pooch.os_cache("nnunet_neuro")) / "models") / sha256_hash(url.encode()).hexdigest()[:24]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            for left_over in folder.glob("tmp*"):  # pooch's, of a process that was killed
                left_over.unlink()
            (folder / "model.zip").unlink(missing_ok=True)
            downloader = ResumableDownloader(folder / "part", resume_unmarked=sha256 is not None)
            try:
                yield _retrieved(url, sha256, folder, downloader)
            finally:
                if not downloader.part.exists():
                    shutil.rmtree(folder, ignore_errors=True)
    except Timeout as error:
        raise FileExistsError(f"another process is downloading {url}; wait until it is done") from error


def _retrieved(url: str, sha256: str | None, folder: Path, downloader: ResumableDownloader) -> Path:
    import pooch

    try:
        return Path(pooch.retrieve(url, sha256 and f"sha256:{sha256}", "model.zip", folder, downloader=downloader))
    except ValueError as error:  # the only one: the downloader raises others
        raise ValueError(f"{url} gave a file with another SHA-256 than the expected {sha256}, which was thrown away; check the address and "
                         "the hash") from error


class ResumableDownloader:
    """A downloader for pooch that goes on where a connection, or an earlier process, broke off.

    The file grows under a name of its own; beside it stands what the server called its version, so that a changed file is not joined to
    the beginning of the old one.

    Args:
        part: the growing file.
        resume_unmarked: continue also where the server tells no version; only where a hash is checked afterwards.
    """

    def __init__(self, part: Path, *, resume_unmarked: bool):
        self.part = part
        self._mark = part.with_name(f"{part.name}.json")
        self._resume_unmarked = resume_unmarked

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Fetch `url` and move it to `output_file`, as pooch asks.

        Raises:
            OSError: see `downloaded`.
        """
        import requests

        failures = 0
        while True:
            before = self._size()
            try:
                self._fetch(url)
                break
            except requests.RequestException as error:
                failures = 1 if self._size() > before else failures + 1
                if failures >= _TRIES:
                    raise OSError(f"the download of {url} broke off after {self._size()} bytes ({_reason(error)}); run the same command "
                                  "again to continue") from error
                self._wait(failures)
        os.replace(self.part, output_file)
        self._mark.unlink(missing_ok=True)

    def _wait(self, failures: int) -> None:
        time.sleep(2.0 ** (failures - 1))

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _fetch(self, url: str) -> None:
        """Ask for what is missing and write it.

        Raises:
            requests.RequestException: what may pass.
            OSError: what will not.
        """
        import requests
        from tqdm import tqdm

        start = self._resume_from(url)
        headers = {"Accept-Encoding": "identity"}  # so that bytes of the file and of the answer are the same
        if start:
            headers["Range"] = f"bytes={start}-"
            if version := self._version():
                headers["If-Range"] = version
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
            if start and answer.status_code == 416 and answer.headers.get("Content-Range") == f"bytes */{start}":
                return  # a process was killed when it had the whole file
            start = self._check(answer, url, start)
            total = start + int(answer.headers["Content-Length"]) if answer.headers.get("Content-Length", "").isdigit() else None
            if (total or 0) > MOST_BYTES:
                raise OSError(f"{url} has {total} bytes, more than the {MOST_BYTES} of any model; check the address")
            answer.raw.enforce_content_length = False  # else what came before the end is dropped with the error; the size is checked below
            self._mark.write_text(json.dumps({"url": url, "version": _version_of(answer)}), encoding="utf-8")
            with self.part.open("r+b" if start else "wb") as file, tqdm(
                    desc=url.rpartition("/")[2][:40] or url, total=total, initial=start, unit="B", unit_scale=True, file=sys.stderr) as bar:
                file.seek(start)
                for block in answer.iter_content(_BLOCK):
                    file.write(block)
                    bar.update(len(block))
                    if file.tell() > MOST_BYTES:
                        raise OSError(f"{url} does not end after the {MOST_BYTES} bytes that a model can have; check the address")
        if total is not None and self._size() != total:
            raise requests.ConnectionError(f"{self._size()} of {total} bytes came")

    def _resume_from(self, url: str) -> int:
        mark = self._read_mark()
        known = mark.get("url") == url and (mark.get("version") or self._resume_unmarked)
        return self._size() if known else 0

    def _check(self, answer: requests.Response, url: str, start: int) -> int:
        """The byte that the answer begins with."""
        import requests

        code = answer.status_code
        if code == 206 and re.match(rf"bytes {start}-", answer.headers.get("Content-Range", "")):
            return start
        if code == 416 or code == 206:  # the file is shorter than what is there, or this is not what was asked for
            self.part.unlink(missing_ok=True)
            raise requests.ConnectionError("the server has another file than the one begun")
        if code == 200:
            return 0
        if code >= 500 or code in _PASSING:
            raise requests.ConnectionError(f"the server answered {code} {answer.reason}")
        raise OSError(f"{url} cannot be had (the server answered {code} {answer.reason}); check the address")

    def _version(self) -> str | None:
        return self._read_mark().get("version")

    def _read_mark(self) -> dict:
        try:
            mark = json.loads(self._mark.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return mark if isinstance(mark, dict) else {}


def _version_of(answer: requests.Response) -> str | None:
    """What `If-Range` takes: an exact tag, else the date of the last change."""
    tag = answer.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified")


def _reason(error: Exception) -> str:
    """The innermost cause, which requests wraps several times."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    return " ".join(str(error).split())[:150] or type(error).__name__
