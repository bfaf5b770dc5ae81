"""Plain commands, such as nnU-Net's, run in this environment with their output in a log."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def run_command(command: Sequence[str], *, log: Path, say: Callable[[str], None], variables: Mapping[str, str] | None = None) -> None:
    """Run a command to its end; it ends with this process where that is interrupted.

    Args:
        command: program and arguments; a program of this environment is found also where its folder is not on the PATH.
        log: file for the whole output; its folder exists.
        say: takes each line for the user: what shows progress, and how long it took.
        variables: environment variables besides those of this process.

    Raises:
        ValueError: the command failed; the message has the end of its output.
    """
    environment = {**os.environ, **(variables or {}), "PYTHONUNBUFFERED": "1"}
    # the programs that belong to this interpreter, also where its bin folder is not on the PATH
    programs = Path(sys.executable).parent
    environment["PATH"] = os.pathsep.join([str(programs), environment.get("PATH", "")])
    begun = time.monotonic()
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                   errors="replace", executable=_program(programs, command[0]))
        try:
            for line in process.stdout:
                stream.write(line)
                if (short := _worth_showing(line)) is not None:
                    say(f"    {short}")
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if code:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise ValueError(f"{command[0]} failed with exit code {code}; whole output in {log}, its end:\n{tail}")
    say(f"  took {time.monotonic() - begun:.0f} s, output in {log}")


def _program(programs: Path, name: str) -> str:
    return str(programs / name) if (programs / name).exists() else name


def _worth_showing(line: str) -> str | None:
    """Of nnU-Net's long output, the lines that show progress; of this plugin's, also its notes and the plain commands it runs."""
    line = line.rsplit("\r", 1)[-1].strip()
    if line.startswith(("$ ", "Note: ")):
        return line
    marks = ("Epoch ", "Pseudo dice", "Mean Validation Dice", "predicting ", "Predicting ", "mean  ", "pooled")
    shown = next((line[line.index(mark):] for mark in marks if mark in line), None)
    return shown if shown and len(shown) < 200 else None
