"""Measures 7 and 8 of `predict.py`: several workers, kills and several programs at one output."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from predict_models import GeneratedVolume, ModelPlan, planned_features, write_tiff
from predict_process import ours_arguments
from predict_rows import NOT_THERE, Bench, Row, percent, shape_text

from nnunet_neuro.predict.run_state import BlockReport, RunState
from nnunet_neuro.predict.windows import Block, block_grid

_MODULES = ("run", "block_predictor", "ensemble", "memory", "completion", "pyramid", "engines", "exactness", "statistics")
_IMPORTS = [*(f"nnunet_neuro.predict.{name}" for name in _MODULES), "nnunet_neuro.commands.predict",
            "nnunetv2.training.nnUNetTrainer.nnUNetTrainer", "zarr", "tqdm", "filelock"]
_KILL_SHAPE, _KILL_CHUNK = (320, 48, 48), (16, 16, 16)
_SLEEPING_BLOCKS, _SLEEP = 40, 0.25


def measure_workers(bench: Bench) -> Iterator[Row]:
    """One worker and two, each with one thread, in turn; then blocks that only sleep, which show the engine alone on a busy machine too."""
    shape = bench.sizes.workers_shape
    model = bench.model(936, ModelPlan((32, 32, 32), planned_features(32, 4)))
    inputs = write_tiff(bench.fresh("image"), "long", [GeneratedVolume(shape)])
    seconds: dict[int, list[float]] = {1: [], 2: []}
    wall: dict[int, list[float]] = {1: [], 2: []}
    cpu: dict[int, list[float]] = {1: [], 2: []}
    windows: dict[int, int] = {}
    overheads = []
    for _ in range(bench.sizes.repeats):
        for workers in (1, 2):
            output = bench.fresh(f"workers{workers}.zarr")
            cost, report = bench.runner.ours(model, inputs, output, "--memory", "8G", "--chunk", "32,32,32", "--workers", str(workers),
                                             clocked=True, threads=1)
            summary = json.loads(output.with_name(f"{output.name.removesuffix('.zarr')}.summary.json").read_text())
            seconds[workers].append(report["parts"]["blocks"]["seconds"])
            wall[workers].append(cost.seconds)
            cpu[workers].append(cost.cpu_seconds)
            windows[workers] = summary["windows"]
            if workers == 1:
                outside = report["parts"]["blocks"]["seconds"] - summary["seconds_of_blocks"] - report["parts"]["open the task"]["seconds"]
                overheads.append(outside / summary["seconds_of_blocks"])
    what = f"{shape_text(shape)}, {summary['blocks']} blocks"
    for name, values, goal in (("blocks", seconds, 1.7), ("whole program", wall, None)):
        ratio = statistics.median(one / two for one, two in zip(values[1], values[2]))
        yield Row(7, f"one worker's time over that of two, {name}, {what}", NOT_THERE,
                  f"{ratio:.2f}: {statistics.median(values[1]):.1f} and {statistics.median(values[2]):.1f} s; load of the machine "
                  f"{os.getloadavg()[0]:.1f}", f"at least {goal}" if goal else "", ratio >= goal if goal else None)
    most = statistics.median(2 * one / two for one, two in zip(cpu[1], cpu[2]))
    yield Row(7, "the same that CPU-seconds allow on idle cores, whole program, imports of each process included", NOT_THERE,
              f"at most {most:.2f}: {statistics.median(cpu[1]):.1f} and {statistics.median(cpu[2]):.1f} CPU-seconds")
    yield Row(7, "windows computed by one worker and by two, which begin in the middle of a column", NOT_THERE,
              f"{windows[1]} and {windows[2]}")
    overhead = statistics.median(overheads)
    yield Row(7, "time of the engine beside blocks over time of blocks, one process", NOT_THERE, percent(overhead), "at most 2 %",
              overhead <= 0.02)
    yield from _sleeping(bench)


def _sleeping(bench: Bench) -> Iterator[Row]:
    from nnunet_neuro.predict.engines import compute_blocks

    count = _SLEEPING_BLOCKS * bench.sizes.repeats
    blocks = block_grid((count, 1, 1), chunk=(1, 1, 1), size=(1, 1, 1))
    taken = {}
    for workers in (1, 2):
        state = RunState.open(bench.fresh("sleep"), {"workers": workers})
        begun = time.perf_counter()
        compute_blocks(Sleeping(_SLEEP), blocks, state, workers=workers, progress=False)
        taken[workers] = time.perf_counter() - begun
    yield Row(7, f"the same of {count} blocks that sleep {_SLEEP} s, start of the workers included", NOT_THERE,
              f"{taken[1] / taken[2]:.2f}; engine beside blocks {percent(taken[1] / (count * _SLEEP) - 1)} with one, "
              f"{percent(taken[2] * 2 / (count * _SLEEP) - 1)} with two")


@dataclass(frozen=True)
class Sleeping:
    """A task whose blocks take a known time and no core."""

    seconds: float

    def open(self) -> Callable[[Block], BlockReport]:
        return self.sleep

    def sleep(self, block: Block) -> BlockReport:
        begun = time.perf_counter()
        time.sleep(self.seconds - (time.perf_counter() - begun))
        return BlockReport(1, self.seconds, 0, 0, "")


def measure_kills(bench: Bench) -> Iterator[Row]:
    """Commands in processes forked from one that has imported everything, so that kills fall on the work and not on imports."""
    trial = _Trial(bench)
    kills, recomputed, wrong, runs = trial.kill(bench.sizes.kills)
    yield Row(8, f"{kills} random kill -9 in {runs} predictions of {trial.blocks} blocks: other digests, files missing or left over",
              "starts over after each", f"{wrong} of {runs} predictions", "0", wrong == 0)
    yield Row(8, "finished blocks written again after a kill", "all", str(recomputed), "0", recomputed == 0)
    wrong, killed = trial.pairs(bench.sizes.pairs)
    yield Row(8, f"{bench.sizes.pairs} times two programs at one output, one of them killed in {killed}: other digests, files missing or "
                 "left over, or a program that failed", "both compute all", f"{wrong} of {bench.sizes.pairs}", "0", wrong == 0)


class _Trial:
    """Predictions of one small volume that are all to give the same files."""

    def __init__(self, bench: Bench):
        self._bench, self._rng = bench, np.random.default_rng(bench.seed)
        self._model = bench.model(935, ModelPlan((16, 16, 16), (4, 6, 8), 1))
        self._inputs = write_tiff(bench.fresh("image"), "long", [GeneratedVolume(_KILL_SHAPE)])
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_IMPORTS)
        self._start(bench.fresh("first.zarr")).join()  # starts the server, which imports
        output = bench.fresh("undisturbed.zarr")
        begun = time.monotonic()
        _check(self._start(output), bench.folder)
        self._seconds = time.monotonic() - begun
        self._expected = _digests(output)
        self.blocks = len(_finished(output))

    def kill(self, count: int) -> tuple[int, int, int, int]:
        """Kill until there were `count` kills; gives kills, finished blocks written again, outputs that are wrong, outputs."""
        kills = recomputed = wrong = runs = 0
        while kills < count:
            output = self._bench.fresh("killed.zarr")
            while True:
                before = self._written(output)
                process = self._start(output)
                if kills < count:
                    process.join(self._rng.uniform(0, 0.8 * self._seconds))
                    process.kill()
                process.join()
                recomputed += sum(self._written(output).get(index) != times for index, times in before.items())
                if process.exitcode == 0:
                    break
                if process.exitcode != -9:
                    raise RuntimeError(f"a prediction ended with {process.exitcode}; see {self._log}")
                kills += 1
            wrong += _digests(output) != self._expected
            runs += 1
            shutil.rmtree(output)
        return kills, recomputed, wrong, runs

    def pairs(self, count: int) -> tuple[int, int]:
        """Two at a time; gives outputs that are wrong, and how many first programs were killed."""
        wrong = killed = 0
        for number in range(count):
            output = self._bench.fresh("pair.zarr")
            first = self._start(output)
            time.sleep(self._rng.uniform(0, self._seconds / 2) * self._rng.integers(2))  # half of them at the same moment
            second = self._start(output)
            if number % 2:
                first.join(self._rng.uniform(0, self._seconds / 2))
                first.kill()
            first.join(), second.join()
            killed += first.exitcode == -9
            good = second.exitcode == 0 and first.exitcode in (0, -9) and _digests(output) == self._expected
            wrong += not good
            shutil.rmtree(output)
        return wrong, killed

    @property
    def _log(self) -> Path:
        return self._bench.folder / "killed.log"

    def _start(self, output: Path) -> multiprocessing.process.BaseProcess:
        arguments = ours_arguments(self._model, self._inputs, output, "--chunk", ",".join(map(str, _KILL_CHUNK)), "--memory",
                                   self._bench.memory)
        process = self._context.Process(target=run_command, args=(arguments, str(self._log)))
        process.start()
        return process

    def _written(self, output: Path) -> dict[int, list[int]]:
        """When the marker and the chunks of each finished block were written."""
        if not (output / ".nnneuro" / "blocks.json").is_file():
            return {}
        chosen = json.loads((output / ".nnneuro" / "blocks.json").read_text())
        blocks = {block.index: block for block in block_grid(_KILL_SHAPE, chunk=_KILL_CHUNK, size=chosen["size"], axis=chosen["axis"])}
        found = {}
        for index in _finished(output):
            ranges = [range(part.start // chunk, -(-part.stop // chunk)) for part, chunk in zip(blocks[index].region, _KILL_CHUNK)]
            files = [output / "0" / f"{z}/{y}/{x}" for z in ranges[0] for y in ranges[1] for x in ranges[2]]
            found[index] = [file.stat().st_mtime_ns for file in (output / ".nnneuro" / "finished" / f"{index}.json", *files)]
        return found


def run_command(arguments: Sequence[str], log: str) -> None:
    """What a forked process does."""
    import torch

    from nnunet_neuro.commands.predict import main

    with open(log, "a") as stream:
        os.dup2(stream.fileno(), 1), os.dup2(stream.fileno(), 2)
        torch.set_num_threads(1)
        sys.exit(main(list(arguments)))


def _check(process: multiprocessing.process.BaseProcess, folder: Path) -> None:
    process.join()
    if process.exitcode:
        raise RuntimeError(f"a prediction ended with {process.exitcode}; see {folder / 'killed.log'}")


def _finished(output: Path) -> list[int]:
    """Blocks that have a marker."""
    folder = output / ".nnneuro" / "finished"
    return sorted(int(file.stem) for file in folder.glob("[0-9]*.json")) if folder.is_dir() else []


def _digests(output: Path) -> dict[str, str]:
    """Every file of an output, with the digest of those that hold no times; what is left over has a name that the others lack."""
    found = {}
    for file in sorted(path for path in output.rglob("*") if path.is_file()):
        name = str(file.relative_to(output))
        found[name] = "" if name.startswith(".nnneuro/finished") else hashlib.sha256(file.read_bytes()).hexdigest()
    return found
