"""Trainings by nnUNetv2_train, several at a time, each in a process forked from one that has imported nnU-Net.

What a short training costs beside its iterations is left out: importing nnU-Net (8 s in each of four processes), drawing a curve after
every epoch, and torch.compile. Linux and macOS.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from multiprocessing.pool import ThreadPool
from pathlib import Path


def main(argv: Sequence[str]) -> int:
    """Run `TASKS.json PARALLEL`, a list of {"arguments": of nnUNetv2_train, "environment": {...}, "log": file}; 1 if one failed."""
    tasks = json.loads(Path(argv[0]).read_text())
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # the other check starts CUDA, which a fork does not survive
    os.environ.setdefault("nnUNet_compile", "f")
    import_everything()
    parallel = int(argv[1])
    # on the CPU nnU-Net gives every training all of them
    multiprocessing.cpu_count = partial(max, 1, multiprocessing.cpu_count() // parallel)
    return 1 if run_forked(tasks, parallel=parallel) else 0


def import_everything() -> None:
    """What a training and its validation import."""
    from nnunetv2.training.logging.nnunet_logger import MetaLogger

    from nnunet_neuro.startup import plugin_classes

    for module in ("run.run_training", "evaluation.evaluate_predictions", "training.nnUNetTrainer.nnUNetTrainer"):
        import_module(f"nnunetv2.{module}")
    MetaLogger.plot_progress_png = _no_picture
    for plugin in plugin_classes().values():
        plugin.load()


def run_forked(tasks: Sequence[dict], *, parallel: int) -> int:
    """Start the tasks in order, `parallel` at a time; how many failed."""
    context = multiprocessing.get_context("fork")
    running: dict[multiprocessing.process.BaseProcess, tuple[int, float]] = {}
    waiting = list(enumerate(tasks, 1))
    failed = 0
    while waiting or running:
        while waiting and len(running) < parallel:
            number, task = waiting.pop(0)
            process = context.Process(target=_train, args=(task,))
            process.start()
            running[process] = number, time.monotonic()
        multiprocessing.connection.wait([process.sentinel for process in running])
        for process in [process for process in running if not process.is_alive()]:
            number, begun = running.pop(process)
            failed += process.exitcode != 0
            outcome = "finished" if process.exitcode == 0 else f"failed, see {tasks[number - 1]['log']},"
            print(f"[{number}/{len(tasks)}] {Path(tasks[number - 1]['log']).stem} {outcome} after {time.monotonic() - begun:.0f} s",
                  file=sys.stderr, flush=True)
    return failed


def _train(task: dict) -> None:
    from nnunetv2.evaluation import evaluate_predictions
    from nnunetv2.run.run_training import run_training_entry
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer

    with Path(task["log"]).open("a", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        # pools whose workers would import everything again
        nnUNetTrainer.multiprocessing = evaluate_predictions.multiprocessing = _Threads
        _set_environment(task["environment"])
        sys.argv = ["nnUNetv2_train", *task["arguments"]]
        try:
            run_training_entry()
        except BaseException:
            traceback.print_exc()
            log.flush()
            raise SystemExit(1) from None
        finally:
            sys.stdout.flush()


def _set_environment(variables: dict[str, str]) -> None:
    os.environ.update(variables)
    for module in list(sys.modules.values()):  # nnU-Net read the place of its results when it was imported
        if isinstance(getattr(module, "nnUNet_results", None), str):
            module.nnUNet_results = variables["nnUNet_results"]


class _Threads:
    """In place of the module multiprocessing, where nnU-Net makes a pool of it."""

    Pool = ThreadPool

    @classmethod
    def get_context(cls, method: str) -> type[_Threads]:
        return cls


def _no_picture(self, folder: str) -> None:
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
