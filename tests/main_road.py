"""The quickstart as a user starts it, for the tests of its two roads; they are two files, so that two processes walk them at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def quickstart(folder: Path, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", "import sys; from nnunet_neuro.commands.quickstart import main; sys.exit(main())",
                           str(folder), "--epochs", "1", "--iterations", "2", *options], capture_output=True, text=True, timeout=1500,
                          env={**os.environ, "NNNEURO_AUTOLOAD": "1"})


def commands_of(done: subprocess.CompletedProcess) -> list[str]:
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return [line.split("$ ")[1] for line in done.stdout.splitlines() if line.startswith("  $ ")]
