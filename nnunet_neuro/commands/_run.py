"""What every command shares: bad input ends in one sentence and exit code 2."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable


def one_sentence_errors(program: str) -> Callable:
    """Decorate a command's `main`: bad input prints `program: error: sentence` to stderr and gives exit code 2.

    `NNNEURO_TRACEBACK=1` prints the traceback as well, for whoever looks for a bug of ours.
    """

    def decorate(main: Callable[..., int | None]) -> Callable[..., int]:
        @functools.wraps(main)
        def run(argv: list[str] | None = None) -> int:
            try:
                return main(argv) or 0
            except (ValueError, OSError) as error:
                sentence = _sentence(error)
            except MemoryError as error:
                sentence = f"the memory does not suffice ({error or 'allocation failed'}); use fewer --workers, or smaller cases"
            except KeyboardInterrupt as interruption:
                sentence = str(interruption) or "interrupted; run the same command again to continue"
            if os.environ.get("NNNEURO_TRACEBACK") == "1":
                traceback.print_exc()
            print(f"{program}: error: {sentence}", file=sys.stderr)
            return 2

        return run

    return decorate


def _sentence(error: Exception) -> str:
    """The system's own errors name a file and a number, and not what to do."""
    if isinstance(error, OSError) and error.errno is not None and isinstance(error.filename, (str, bytes, os.PathLike)):
        return f"{os.fsdecode(error.filename)}: {error.strerror}; check the path, and that it may be read or written by you"
    return str(error)
