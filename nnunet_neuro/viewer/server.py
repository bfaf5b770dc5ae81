"""A server of files and computed voxels for viewers on the same machine.

It listens on 127.0.0.1 only, and its addresses begin with a random word, so that no other user and no other page reads along although the
answers allow every origin, as neuroglancer and napari need it.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

# the bytes of a key such as "0/.zarray" or the file that holds them, or None where there is no such key
KeyReader = Callable[[str], "bytes | Path | None"]

_SECONDS_TO_CLOSE = 0.05
_COMMON_HEADERS = {
    "Content-Type": "application/octet-stream",
    "Accept-Ranges": "bytes",
    "Cache-Control": "no-cache",
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, HEAD, OPTIONS",
    "Access-Control-Allow-Headers": "Range",
    "Access-Control-Expose-Headers": "Content-Range, Content-Length",
}


class DataServer:
    """Serves folders and computed keys until it is closed.

    Attributes:
        address: `http://127.0.0.1:PORT/WORD`; what is served under a name lies at `address/NAME/`.
    """

    def __init__(self, served: Mapping[str, Path | KeyReader], *, port: int = 0, log: Callable[[str, int], None] | None = None):
        """Start to serve.

        Args:
            served: a folder, or a function of a key, for each name.
            port: to listen on; 0 for a free one.
            log: called with the path (`NAME/KEY`) and the status of each answer.

        Raises:
            OSError: the port is taken.
        """
        word = secrets.token_urlsafe(12)
        readers = {name: _files_of(source) if isinstance(source, Path) else source for name, source in served.items()}
        handler = type("Handler", (_Handler,), {"word": word, "readers": readers, "log": staticmethod(log or _no_log)})
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        except OSError as error:
            raise OSError(f"port {port} of this machine is taken ({error.strerror}); choose another --port") from error
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}/{word}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_SECONDS_TO_CLOSE,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop to serve."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> DataServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open: neuroglancer asks for hundreds of chunks
    word: str
    readers: Mapping[str, KeyReader]
    log: Callable[[str, int], None]

    def do_GET(self) -> None:  # noqa: N802 - http.server's name
        self._answer(with_body=True)

    def do_HEAD(self) -> None:  # noqa: N802
        self._answer(with_body=False)

    def do_OPTIONS(self) -> None:  # noqa: N802
        self._send(HTTPStatus.NO_CONTENT, b"", {})

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - http.server's name
        """Nothing on stderr for each chunk."""

    def _answer(self, *, with_body: bool) -> None:
        word, _, path = unquote(urlsplit(self.path).path).lstrip("/").partition("/")
        name, _, key = path.partition("/")
        known = secrets.compare_digest(word.encode(), self.word.encode()) and name in self.readers
        try:
            status, content, headers = self._part(self.readers[name](key) if known else None)
        except (OSError, ValueError) as error:  # a damaged chunk: the viewer leaves it out, and its console shows the sentence
            status, content, headers = HTTPStatus.INTERNAL_SERVER_ERROR, str(error).encode(), {"Content-Type": "text/plain"}
        self._send(status, content, headers, with_body=with_body)
        self.log(path, int(status))

    def _part(self, source: bytes | Path | None) -> tuple[HTTPStatus, bytes, dict[str, str]]:
        """Status, content and headers of the wanted bytes."""
        if source is None:
            return HTTPStatus.NOT_FOUND, b"", {}
        length = source.stat().st_size if isinstance(source, Path) else len(source)
        part = _range_within(self.headers.get("Range", ""), length)
        if part is None:
            return HTTPStatus.OK, _bytes_of(source, range(length)), {}
        if not part:
            return HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"", {"Content-Range": f"bytes */{length}"}
        return HTTPStatus.PARTIAL_CONTENT, _bytes_of(source, part), {"Content-Range": f"bytes {part.start}-{part.stop - 1}/{length}"}

    def _send(self, status: HTTPStatus, content: bytes, headers: dict[str, str], *, with_body: bool = True) -> None:
        try:
            self.send_response(status)
            for header, value in {**_COMMON_HEADERS, "Content-Length": str(len(content)), **headers}.items():
                self.send_header(header, value)
            self.end_headers()
            if with_body:
                self.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):  # the viewer moved on
            self.close_connection = True


def _files_of(folder: Path) -> KeyReader:
    """Finds the files below a folder and nothing beside it."""
    root = folder.resolve()

    def find(key: str) -> Path | None:
        file = (root / key).resolve()
        return file if file.is_relative_to(root) and file.is_file() else None

    return find


def _bytes_of(source: bytes | Path, part: range) -> bytes:
    if isinstance(source, bytes):
        return source[part.start:part.stop]
    with source.open("rb") as stream:
        stream.seek(part.start)
        return stream.read(len(part))


def _range_within(header: str, length: int) -> range | None:
    """The bytes of a Range header; empty where it asks for none, None for no header and for forms that may be ignored."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", header.strip())
    if not found or found.group(0).endswith("=-"):
        return None
    first, last = found.groups()
    if not first:
        return range(max(0, length - int(last)), length)
    return range(int(first), min(length, int(last) + 1) if last else length)


def _no_log(path: str, status: int) -> None:
    """Nobody asked to know."""
