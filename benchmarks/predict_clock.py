"""Runs a prediction program and writes how long each part of it took.

    python predict_clock.py REPORT.json MODULE:FUNCTION ARGUMENTS...

Calls are timed by the clock and by the CPU time of the process; what they call within each other is counted for both. Chunks of the input
are those compressed by LZ4, which no output of ours is.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# part -> module and name of what is timed; names that a module imported are its own
_NETWORK = ("network", "nnunetv2.inference.predict_from_raw_data", "nnUNetPredictor._internal_maybe_mirror_and_predict")
_PARTS = (
    ("open the task", "nnunet_neuro.predict.job", "PredictionTask.open"),
    ("first pass", "nnunet_neuro.predict.block_predictor", "first_pass"),
    ("blocks", "nnunet_neuro.predict.engines", "compute_blocks"),
    ("read and normalise", "nnunet_neuro.predict.column", "CanvasInput.layer"),
    ("sums", "nnunet_neuro.predict.column", "WindowSums.add"),
    ("sums moved on", "nnunet_neuro.predict.column", "WindowSums.begin"),
    ("means of sums", "nnunet_neuro.predict.column", "WindowSums.finished"),
    ("labels of logits", "nnunet_neuro.predict.block_predictor", "outputs_of"),
    ("write", "nnunet_neuro.predict.store", "LabelStore.write"),
    ("pyramid", "nnunet_neuro.predict.pyramid", "build_pyramid"),
)


def main(report: str, function: str, *arguments: str) -> None:
    """Import, time, run, report."""
    begun = time.perf_counter()
    module, name = function.split(":")
    run = getattr(importlib.import_module(module), name)
    importlib.import_module("nnunetv2.training.nnUNetTrainer.nnUNetTrainer")  # which builds the network, and draws in seaborn
    parts: dict[str, dict[str, float]] = {}
    ours = not module.startswith("nnunetv2")
    for part, module_name, attribute in (_NETWORK, *(_PARTS if ours else ())):
        _time(parts, part, module_name, attribute)
    decoded = _count_decoded(first_pass=ours)
    sys.argv = [name, *arguments]
    imported, cpu = time.perf_counter(), time.process_time()
    code = run() if module.startswith("nnunetv2") else run(list(arguments))
    Path(report).write_text(json.dumps({
        "import_seconds": imported - begun, "seconds": time.perf_counter() - imported, "cpu_seconds": time.process_time() - cpu,
        "parts": parts, **decoded}))
    if code:
        sys.exit(code)


def _time(parts: dict[str, dict[str, float]], part: str, module: str, attribute: str) -> None:
    *owner, name = attribute.split(".")
    place = functools.reduce(getattr, owner, importlib.import_module(module))
    setattr(place, name, _timed(getattr(place, name), parts.setdefault(part, {"seconds": 0.0, "cpu_seconds": 0.0, "calls": 0})))


def _timed(function: Callable, part: dict[str, float]) -> Callable:
    @functools.wraps(function)
    def timed(*arguments: Any, **named: Any) -> Any:
        begun, cpu = time.perf_counter(), time.process_time()
        try:
            return function(*arguments, **named)
        finally:
            part["seconds"] += time.perf_counter() - begun
            part["cpu_seconds"] += time.process_time() - cpu
            part["calls"] += 1
    return timed


def _count_decoded(first_pass: bool) -> dict[str, int]:
    """Bytes of chunks of the input, and how many they were when the first pass ended."""
    from numcodecs.lz4 import LZ4

    decoded = {"decoded_bytes": 0, "decoded_bytes_in_first_pass": 0}
    decode = LZ4.decode

    def counted(self: LZ4, *arguments: Any, **named: Any) -> Any:
        result = decode(self, *arguments, **named)
        decoded["decoded_bytes"] += memoryview(result).nbytes
        return result

    LZ4.decode = counted
    if first_pass:
        from nnunet_neuro.predict import block_predictor

        make = block_predictor.first_pass

        def noted(*arguments: Any, **named: Any) -> Any:
            result = make(*arguments, **named)
            decoded["decoded_bytes_in_first_pass"] = decoded["decoded_bytes"]
            return result

        block_predictor.first_pass = noted
    return decoded


if __name__ == "__main__":
    main(*sys.argv[1:])
