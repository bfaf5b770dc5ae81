"""One case measured; also the work of a process among several."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nnunet_neuro.evaluate import measures
from nnunet_neuro.evaluate.blockwise import count_case
from nnunet_neuro.evaluate.label_names import LabelNames
from nnunet_neuro.evaluate.measures import MEASURES
from nnunet_neuro.evaluate.pairing import Pair
from nnunet_neuro.evaluate.scores import CaseScores
from nnunet_neuro.evaluate.sources import open_case
from nnunet_neuro.raw_dataset import worker_pool
from nnunet_neuro.volumes import Volume, full_region

_SLAB_VOXELS = 1 << 24


@dataclass(frozen=True)
class CaseTask:
    """How every case is measured; picklable.

    Attributes:
        names: the labels.
        measures: names of the measures.
        tolerance: length in the unit of the voxel size; None for two voxels.
        memory: bytes for one case.
        block: (z, y, x) of blocks; None chooses by the memory.
        progress: show a bar of the blocks of a large case.
    """

    names: LabelNames
    measures: tuple[str, ...]
    tolerance: float | None
    memory: int
    block: tuple[int, ...] | None = None
    progress: bool = False


def score_cases(pairs: Sequence[Pair], task: CaseTask, *, workers: int = 1, progress: bool = True) -> list[CaseScores]:
    """Measure every case; the scores are the same with any number of workers.

    Args:
        pairs: the cases.
        task: how.
        workers: processes.
        progress: show a bar of cases on stderr.

    Raises:
        ValueError: bad input, see `score_case`.
        OSError: a worker died.
    """
    from tqdm import tqdm

    score = partial(score_case, task=task)
    with _mapped(score, pairs, min(workers, len(pairs))) as scores:
        return list(tqdm(scores, desc="measuring", total=len(pairs), unit="case", disable=not progress))


def score_case(pair: Pair, task: CaseTask) -> CaseScores:
    """Read and measure one case.

    Raises:
        ValueError: labels or probabilities that cannot be, see `pairing.read_labels` and `probabilities.open_probabilities`.
    """
    chosen = {name: MEASURES[name] for name in task.measures}
    with tempfile.TemporaryDirectory(prefix="nnneuro-evaluate-") as scratch:
        unpacked, ids = (Path(scratch) / name for name in ("probabilities", "ids"))
        unpacked.mkdir(), ids.mkdir()
        needed = any("probability" in one.counts.needs for one in chosen.values())
        case = open_case(pair, task.names, tolerance=task.tolerance, scratch=unpacked, probabilities=needed)
        found = count_case(case, chosen, memory=task.memory, scratch=ids, block=task.block, progress=task.progress)
    made = {name: one for name, one in chosen.items() if name not in found.left_out}
    files = {"prediction": pair.prediction, "reference": pair.reference, "image": pair.image}
    return CaseScores(
        pair=pair, counts=found.counts, values={name: measures.values(counts, made) for name, counts in found.counts.items()},
        voxels=math.prod(case.shape), annotated=found.annotated,
        sha256={role: _sha256(volume) for role, volume in files.items() if volume is not None}, blocks=found.blocks,
        left_out=found.left_out, fullest=found.fullest)


@contextmanager
def _mapped(score: partial, pairs: Sequence[Pair], workers: int) -> Iterator[Iterator[CaseScores]]:
    if workers <= 1:
        yield map(score, pairs)
        return
    pool = worker_pool(workers)
    try:
        yield pool.map(score, pairs)
    except BrokenProcessPool as error:
        raise OSError("a worker died, killed or for want of memory; run the same command again with --workers 1") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _sha256(volume: Volume) -> str:
    """Of the files; of the voxels where there are none, as behind an address."""
    digest, sources = hashlib.sha256(), volume.sources()
    if any(source.file is None for source in sources):
        planes = max(1, _SLAB_VOXELS // math.prod(volume.shape[1:]))
        for first in range(0, volume.shape[0], planes):
            everything = full_region(volume.shape, None)
            digest.update(volume.read((slice(first, min(first + planes, volume.shape[0])), *everything[1:])).tobytes())
        return digest.hexdigest()
    for source in sources:
        with open(source.file, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
