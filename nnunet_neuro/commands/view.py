"""`nnneuro_view`: a prediction and its image in the browser."""

from __future__ import annotations

import argparse
import sys
import threading
import webbrowser
from pathlib import Path

from nnunet_neuro.commands._run import one_sentence_errors

_PROGRAM = "nnneuro_view"


@one_sentence_errors(_PROGRAM)
def main(argv: list[str] | None = None) -> None:
    """Open the page, print its link, and serve until interrupted."""
    options = _parser().parse_args(argv)
    from nnunet_neuro.viewer.neuroglancer_page import open_page

    page = open_page(options.output, options.image, port=options.port)
    try:
        print(page.url, flush=True)
        print(f"voxels for other viewers: {page.data.address}/prediction/ ; Ctrl-C ends both", file=sys.stderr)
        if not options.no_browser:
            webbrowser.open(page.url)
        wait_for_interruption()
    except KeyboardInterrupt:
        print("closed", file=sys.stderr)
    finally:
        page.close()


def wait_for_interruption() -> None:
    """Return never; Ctrl-C ends it."""
    threading.Event().wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(_PROGRAM, description="Show a prediction over its image in neuroglancer, which runs in the browser. "
                                     "Everything stays on this machine; the servers listen on 127.0.0.1 only.")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="OME-Zarr folder that nnneuro_predict wrote")
    parser.add_argument("--image", metavar="INPUT", help="the volume that it was made from, in any format that nnneuro_predict reads")
    parser.add_argument("--port", type=_port, default=0, metavar="N",
                        help="port of the page; the voxels come from port N+1, which a tunnel must pass on too (default: free ports)")
    parser.add_argument("--no-browser", action="store_true", help="print the link only")
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) < 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; expected a number from 1 to 65534")
    return int(text)
