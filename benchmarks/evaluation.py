"""Evaluation with several workers against one, and in blocks against in one piece: time, peak memory, equal scores.

    python benchmarks/evaluation.py [--cases 8] [--side 192] [--volume 256] [--rounds 2] [--folder /scratch]

Cases are thin tubes with a prediction that is shifted and has gaps. Each way runs in a process of its own; the fastest round counts,
because other work on the machine only ever makes a run slower. Memory is the highest resident set of the process less that of its
imports.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from nnunet_neuro.evaluate.blockwise import BYTES_PER_VOXEL
from nnunet_neuro.evaluate.measures import MEASURES, families
from nnunet_neuro.evaluate.run import Choice, evaluate_folders


def main() -> None:
    """Make the cases, measure every way, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--side", type=int, default=192, help="of a case")
    parser.add_argument("--volume", type=int, default=256, help="side of the volume that is cut into blocks")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        _workers(Path(temporary) / "cases", arguments.cases, arguments.side, arguments.rounds)
        _blocks(Path(temporary) / "volume", arguments.volume, arguments.rounds)
        _families(Path(temporary) / "volume", arguments.volume // 2)


def _workers(folder: Path, cases: int, side: int, rounds: int) -> None:
    _make(folder, cases, side)
    found = {workers: _best(folder, Choice(workers=workers, memory=8 << 30), rounds) for workers in (1, 2)}
    assert found[1]["pooled"] == found[2]["pooled"]
    print(f"{cases} cases of {side}^3, overlap, centrelines and surfaces, best of {rounds}; equal scores")
    for workers, one in found.items():
        print(f"{workers} worker{'s' * (workers > 1):<22}{one['seconds']:8.1f} s   {one['seconds'] / found[1]['seconds']:.2f} x one worker")


def _blocks(folder: Path, side: int, rounds: int) -> None:
    """Measures that work in blocks; a quarter of the memory of one piece gives blocks."""
    _make(folder, 1, side)
    words = tuple(name for name, one in MEASURES.items() if one.family in ("overlap", "surfaces", "partition")
                  and one.counts.surroundings != "whole")
    whole = side**3 * BYTES_PER_VOXEL["halo"]
    found = {name: _best(folder, Choice(measures=words, memory=memory), rounds)
             for name, memory in (("one piece", whole), ("blocks, 1/4 of it", whole // 4), ("blocks, 1/8 of it", whole // 8))}
    print(f"\none volume of {side}^3, {len(words)} measures, best of {rounds}; equal scores unless it is said; one piece may take "
          f"{whole / 1e9:.2f} GB")
    for name, one in found.items():
        same = all(one["pooled"][key] == found["one piece"]["pooled"][key] for key in one["pooled"])
        missing = len(words) - len(one["pooled"])
        print(f"{name:<22}{one['blocks']:4d} blocks{one['seconds']:8.1f} s {one['seconds'] / found['one piece']['seconds']:6.2f} x"
              f"{one['peak'] / 1e9:8.2f} GB {one['peak'] / found['one piece']['peak']:6.2f} x"
              f"{'' if same else '   OTHER SCORES'}{f'   {missing} measures left out' if missing else ''}")


def _families(folder: Path, side: int) -> None:
    """What a voxel takes at the peak, family by family; `BYTES_PER_VOXEL` of its steps is to be above."""
    folder = folder / "small"
    _make(folder, 1, side)
    print(f"\nbytes per voxel at the peak, {side}^3 in one piece, and what is allowed for")
    for family in families():
        if not any("probability" in one.counts.needs for one in families()[family]):
            one = _best(folder, Choice(measures=(family,), memory=64 << 30), 1)
            allowed = max(BYTES_PER_VOXEL[one.counts.surroundings] for one in families()[family])
            print(f"{family:<22}{one['peak'] / side**3:8.0f} of {allowed:4d}{one['seconds']:8.1f} s")


def _best(folder: Path, choice: Choice, rounds: int) -> dict:
    runs = []
    for _ in range(rounds):
        receive, send = multiprocessing.get_context("spawn").Pipe(duplex=False)
        process = multiprocessing.get_context("spawn").Process(target=_run, args=(folder, choice, send))
        process.start()
        runs.append(receive.recv())
        process.join()
    return min(runs, key=_seconds)


def _seconds(run: dict) -> float:
    return run["seconds"]


def _run(folder: Path, choice: Choice, send) -> None:
    import cc3d  # noqa: F401 - imported before memory is looked at
    import scipy.ndimage  # noqa: F401
    import scipy.spatial  # noqa: F401
    import skimage.morphology  # noqa: F401

    tiny = replace(choice, workers=1, memory=1 << 30, block=(8, 8, 8))  # imports what blocks need
    evaluate_folders(folder / "tiny", folder / "tiny", dataset_json=folder / "dataset.json", choice=tiny, progress=False)
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    found = evaluate_folders(folder / "predictions", folder / "labelsTr", choice=choice, progress=False)
    send.send({"seconds": time.perf_counter() - begun, "peak": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024,
               "pooled": found.pooled["tube"], "blocks": found.cases[0].blocks})


def _make(folder: Path, cases: int, side: int) -> None:
    for name in ("predictions", "labelsTr", "tiny"):
        (folder / name).mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "tube": 1}}))
    for number in range(cases):
        reference = _tubes(side, number)
        prediction = np.zeros_like(reference)
        prediction[:, 1:] = reference[:, :-1]
        for z, y, x in np.random.default_rng(number).integers(0, side - 5, (side * 4, 3)):
            prediction[z:z + 5, y:y + 5, x:x + 5] = 0
        for name, voxels in (("predictions", prediction), ("labelsTr", reference)):
            _write(folder / name / f"tubes_{number}.npy", voxels)
    _write(folder / "tiny" / "tiny.npy", _tubes(16, 0))


def _write(path: Path, voxels: np.ndarray) -> None:
    with path.open("wb") as stream:
        np.save(stream, voxels)


def _tubes(side: int, seed: int) -> np.ndarray:
    """Wavy tubes, three voxels thick, about one in a hundred voxels."""
    generator = np.random.default_rng(seed)
    voxels = np.zeros((side, side, side), np.uint8)
    along = np.arange(side)
    for number in range(max(3, side * side // 700)):
        start, phase, swing = generator.uniform(3, side - 3, 2), generator.uniform(0, 6, 2), generator.uniform(1, side / 12, 2)
        others = np.clip(start[:, None] + swing[:, None] * np.sin(along / 11 + phase[:, None]), 1, side - 4).round().astype(int)
        turned = np.moveaxis(voxels, number % 3, 0)
        for step in (-1, 0, 1):
            turned[along, others[0] + step, others[1]] = turned[along, others[0], others[1] + step] = 1
    return voxels


if __name__ == "__main__":
    main()
