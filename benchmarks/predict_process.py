"""A program in a process of its own, with the time, CPU time and peak memory of it and all that it starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from predict_models import PLANS, TRAINER, BenchModel

_PROGRAMS = Path(sys.executable).parent
_OURS, _STOCK = "nnunet_neuro.commands.predict:main", "nnunetv2.inference.predict_from_raw_data:predict_entry_point"
_SECONDS_BETWEEN_LOOKS = 0.25


@dataclass(frozen=True)
class Cost:
    """What a program took.

    Attributes:
        seconds: by the clock.
        cpu_seconds: of all its processes.
        peak_bytes: most memory of all its processes together; pages that several share are counted once.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Runner:
    """Runs both programs alike.

    Attributes:
        folder: for logs and reports.
        threads: of the network in each process of both; None for as many as there are cores.
    """

    folder: Path
    threads: int | None = None

    def stock(self, model: BenchModel, images: Path, output: Path, *options: str, clocked: bool = False) -> tuple[Cost, dict]:
        """`nnUNetv2_predict` on a folder of images; the report of `predict_clock.py` if it is clocked."""
        folds = [str(fold) for fold in range(model.plan.folds)]
        arguments = ["-i", str(images), "-o", str(output), "-d", model.dataset, "-c", model.plan.configuration, "-tr", TRAINER, "-p", PLANS,
                     "-f", *folds, "-device", "cpu", "--disable_progress_bar", *options]
        return self._run("nnUNetv2_predict", _STOCK, arguments, clocked)

    def ours(self, model: BenchModel, inputs: Sequence[Path], output: Path, *options: str, clocked: bool = False,
             threads: int | None = None) -> tuple[Cost, dict]:
        """`nnneuro_predict` on the channels of a volume; the report of `predict_clock.py` if it is clocked."""
        return self._run("nnneuro_predict", _OURS, ours_arguments(model, inputs, output, *options), clocked, threads)

    def ours_many(self, commands: Sequence[Sequence[str]]) -> Cost:
        """Several commands of ours one after another in one process, as nnU-Net predicts all images of a folder."""
        listed = self.folder / "commands.json"
        listed.write_text(json.dumps(commands))
        code = ("import json, sys; from nnunet_neuro.commands.predict import main; "
                "sys.exit(any([main(one) for one in json.load(open(sys.argv[1]))]))")
        return measure([sys.executable, "-c", code, str(listed)], self.folder / "commands.log", self._environment(None))

    def clocked(self, function: str, arguments: Sequence[str]) -> tuple[Cost, dict]:
        """A function `module:name` that parses arguments, in a process of its own whose parts are timed."""
        return self._run(function, function, arguments, True)

    def _run(self, name: str, function: str, arguments: Sequence[str], clocked: bool, threads: int | None = None) -> tuple[Cost, dict]:
        report = self.folder / "report.json"
        program = [sys.executable, str(Path(__file__).with_name("predict_clock.py")), str(report), function]
        cost = measure([*(program if clocked else [str(_PROGRAMS / name)]), *arguments], self.folder / f"{name.rpartition(':')[2]}.log",
                       self._environment(threads))
        return cost, json.loads(report.read_text()) if clocked else {}

    def _environment(self, threads: int | None) -> dict[str, str]:
        """Threads that have nothing to do sleep, so that CPU time is time in which something was computed."""
        environment = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0", **os.environ}
        threads = threads or self.threads
        # nnU-Net takes all cores, but no more threads than its default number of processes
        return environment | ({"OMP_NUM_THREADS": str(threads), "nnUNet_def_n_proc": str(threads)} if threads else {})


def ours_arguments(model: BenchModel, inputs: Sequence[Path], output: Path, *options: str) -> list[str]:
    """Of `nnneuro_predict`; the voxel size is the plan's. The stub network is no part that is known to be harmless."""
    return [*map(str, inputs), str(output), "--model", str(model.folder), "--device", "cpu", "--spacing", "1,1,1", "--allow-code", *options]


def measure(command: Sequence[str], log: Path, environment: dict[str, str]) -> Cost:
    """Run a program to its end.

    Raises:
        RuntimeError: it failed; with the last lines that it wrote.
    """
    begun = time.perf_counter()
    peak, ticks = 0, {}
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=environment)
        while True:
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            peak = max(peak, _look(process.pid, ticks))
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        lines = log.read_text(errors="replace").splitlines()
        raise RuntimeError(f"{Path(command[0]).name} ended with {process.returncode}:\n" + "\n".join(lines[-12:]))
    # the first knows of children that were waited for, the second of all that lived at a look
    cpu = max(usage.ru_utime + usage.ru_stime, sum(ticks.values()))
    return Cost(time.perf_counter() - begun, cpu, peak)


def labels_of_tiff(path: Path) -> np.ndarray:
    """What nnU-Net wrote."""
    import tifffile

    return tifffile.imread(path)


def labels_of_zarr(path: Path) -> np.ndarray:
    """What our command wrote."""
    import zarr

    return zarr.open_array(str(path / "0"), mode="r")[:]


def _look(pid: int, ticks: dict[int, float]) -> int:
    """Memory of a process and its descendants now; notes the CPU time of each."""
    total = 0
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for one in family:
        try:
            times = one.cpu_times()
            ticks[one.pid] = times.user + times.system
            total += _proportional_bytes(one)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def _proportional_bytes(process: psutil.Process) -> int:
    """Linux' proportional set size, which counts shared pages by share; elsewhere the resident size."""
    try:
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return process.memory_info().rss
