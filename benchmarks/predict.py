"""Prediction of large volumes beside nnU-Net's own: labels, memory, time, chunks, workers, kills, 64 gigavoxels.

    python benchmarks/predict.py                         # about 45 minutes on two cores
    python benchmarks/predict.py --quick                 # small sizes, about five minutes; most goals need larger ones
    python benchmarks/predict.py --full                  # hours
    python benchmarks/predict.py --measures 1 3 6 --folder /scratch/bench --json results

    1  labels that differ from those of nnUNetv2_predict
    2  peak memory, and how it grows with the volume
    3  CPU-seconds in exact and in fast mode
    4  time outside the network's forward passes
    5  stored chunks decoded
    6  background skipped
    7  two workers; what the engine costs
    8  kill -9, and two programs at one output
    9  64 gigavoxels in bounded memory, and a brain by arithmetic

nnU-Net is the command nnUNetv2_predict, ours is nnneuro_predict, each in a process of its own that is measured with all that it starts: CPU
time, and memory with shared pages counted once. Models are nnU-Net model folders made by code, their weights random or trained for a few
steps on the blobs that are predicted. Each row is printed as soon as it is known; the table goes to stdout and, with --json, to files.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from predict_models import prepare_environment  # noqa: E402 - a script's folder is not a package
from predict_process import Runner  # noqa: E402
from predict_rows import DEFAULT, FULL, QUICK, Bench, Row, Sizes  # noqa: E402

_HEAD = "| measure | what | nnU-Net | nnunet_neuro | goal | met |\n|---|---|---|---|---|---|"


def main(argv: list[str] | None = None) -> int:
    """Make the measures that are asked for; 1 if one of them failed to run."""
    options = _parser().parse_args(argv)
    sizes = QUICK if options.quick else FULL if options.full else DEFAULT
    changed = {name: value for name in Sizes.__dataclass_fields__ if (value := getattr(options, name)) is not None}
    sizes = replace(sizes, **{name: tuple(value) if isinstance(value, list) else value for name, value in changed.items()})
    with nullcontext(options.folder) if options.folder else tempfile.TemporaryDirectory() as folder:
        folder = Path(folder).resolve()
        shutil.rmtree(folder / "outputs", ignore_errors=True)  # our program would go on with what an interrupted benchmark left
        (folder / "outputs").mkdir(parents=True)
        prepare_environment(folder)
        if options.threads:
            os.environ["OMP_NUM_THREADS"] = str(options.threads)
        rate = (options.gpu_rate, options.gpu_rate_source) if options.gpu_rate else None
        bench = Bench(folder, sizes, Runner(folder, options.threads), options.memory, rate, options.seed)
        return _run(bench, options.measures or list(_measures()), options.json)


def _run(bench: Bench, numbers: list[int], results: Path | None) -> int:
    print(f"{date.today()}, {platform.machine()} CPU, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
          f"{bench.runner.threads or 'all'} thread(s)\n\n{_HEAD}", flush=True)
    rows: list[Row] = []
    seconds: dict[int, float] = {}
    failed = 0
    for number in numbers:
        begun = time.perf_counter()
        try:
            for row in _measures()[number](bench):
                print(row.markdown(), flush=True)
                rows.append(row)
        except RuntimeError as error:  # of a program that was measured; the other measures do not need it
            failed = 1
            rows.append(Row(number, "could not be measured", "", "", "", False))
            print(f"{rows[-1].markdown()}", flush=True)
            print(f"measure {number}: {error}", file=sys.stderr, flush=True)
        for output in (bench.folder / "outputs").iterdir():
            shutil.rmtree(output) if output.is_dir() else output.unlink()
        seconds[number] = round(time.perf_counter() - begun, 1)
        if results is not None:
            _write(results, bench, rows, seconds)
    took = ", ".join(f"{number}: {one:.0f}" for number, one in seconds.items())
    print(f"\nSeconds that each measure took: {took}; load at the end {os.getloadavg()[0]:.1f}", flush=True)
    return failed


def _write(folder: Path, bench: Bench, rows: list[Row], seconds: dict[int, float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {"date": str(date.today()), "cores": os.cpu_count(), "threads": bench.runner.threads, "sizes": asdict(bench.sizes),
               "memory": bench.memory, "seconds": seconds, "rows": [row.json() for row in rows]}
    (folder / "predict.json").write_text(json.dumps(content, indent=1, default=bool))
    (folder / "predict.md").write_text("\n".join([_HEAD, *(row.markdown() for row in rows)]) + "\n", encoding="utf-8")


def _measures() -> dict:
    """Imported here, when nnU-Net's folders are known to it."""
    from predict_cost import measure_cpu, measure_decoding, measure_memory, measure_share, measure_skipping
    from predict_exactness import measure_exactness
    from predict_gigavoxels import measure_gigavoxels
    from predict_workers import measure_kills, measure_workers

    return {1: measure_exactness, 2: measure_memory, 3: measure_cpu, 4: measure_share, 5: measure_decoding, 6: measure_skipping,
            7: measure_workers, 8: measure_kills, 9: measure_gigavoxels}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measures", type=int, nargs="+", choices=range(1, 10), metavar="N", help="1 to 9 (default: all)")
    preset = parser.add_mutually_exclusive_group()
    preset.add_argument("--quick", action="store_true", help="small sizes")
    preset.add_argument("--full", action="store_true", help="the largest sizes; hours")
    parser.add_argument("--memory", default="1.4G", help="that our program is given for measures 1, 2 and 8 (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="of the network, in both programs (default: as many as there are cores)")
    parser.add_argument("--gpu-rate", type=float, metavar="VOXELS", help="of windows per second through a GPU, for the arithmetic of 9")
    parser.add_argument("--gpu-rate-source", default="as given by --gpu-rate", metavar="TEXT", help="where that number is from")
    parser.add_argument("--seed", type=int, default=0, help="of moments of kills (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder); what is there is used again")
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="also write predict.json and predict.md there")
    sizes = parser.add_argument_group("sizes, in place of those of --quick, --full or the default")
    for name, default in asdict(DEFAULT).items():
        many = isinstance(default, tuple)
        sizes.add_argument(f"--{name.replace('_', '-')}", type=int, nargs="+" if many else None, metavar="N")
    return parser


if __name__ == "__main__":
    sys.exit(main())
