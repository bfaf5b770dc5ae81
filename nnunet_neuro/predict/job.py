"""What a process that computes blocks is sent: where the models, the input and the output are, and how to predict; never arrays."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_neuro.predict.inputs import Channels
from nnunet_neuro.predict.options import PredictOptions
from nnunet_neuro.predict.run_state import BlockReport
from nnunet_neuro.predict.store import LABELS, LabelStore
from nnunet_neuro.predict.windows import Block
from nnunet_neuro.volumes import describe_region

if TYPE_CHECKING:
    from nnunet_neuro.predict.block_predictor import BlockResult
    from nnunet_neuro.predict.ensemble import Ensemble
    from nnunet_neuro.predict.model import TrainedModel

PROBABILITIES, ENTROPY, DISAGREEMENT = "probabilities", "entropy", "disagreement"


@dataclass(frozen=True)
class ModelChoice:
    """A trained model as it is named.

    Attributes:
        folder: `Dataset.../TRAINER__PLANS__CONFIGURATION`; made absolute.
        folds: numbers or "all"; None for all that are there.
        checkpoint: name of the file in each fold's folder.
        allow_code: see `load_model`.
    """

    folder: Path
    folds: tuple[int | str, ...] | None = None
    checkpoint: str = "checkpoint_final.pth"
    allow_code: bool = False

    def __post_init__(self):
        object.__setattr__(self, "folder", Path(self.folder).absolute())  # a worker may be in another folder

    def load(self) -> TrainedModel:
        """The model; see `load_model` for what is refused."""
        from nnunet_neuro.predict.model import load_model

        return load_model(self.folder, folds=self.folds, checkpoint=self.checkpoint, allow_code=self.allow_code)


@dataclass(frozen=True)
class PredictionTask:
    """The task of the engines.

    Attributes:
        models: one, or several whose probabilities are averaged.
        channels: the input.
        statistics: of the first pass for each model, `VolumeStatistics.to_json` as text.
        options: how to predict.
        spacing: (z, y, x) voxel size; None for that of the input.
        store: the output.
    """

    models: tuple[ModelChoice, ...]
    channels: Channels
    statistics: tuple[str, ...]
    options: PredictOptions
    spacing: tuple[float, ...] | None
    store: Path

    def open(self) -> Callable[[Block], BlockReport]:
        """Load the models; the function predicts and writes a block."""
        from nnunet_neuro.predict.ensemble import Ensemble
        from nnunet_neuro.predict.memory import keep_freed_memory
        from nnunet_neuro.predict.statistics import VolumeStatistics

        keep_freed_memory()
        statistics = [VolumeStatistics.from_json(json.loads(text)) for text in self.statistics]
        predictor = Ensemble([choice.load() for choice in self.models], self.channels.open(), statistics, self.options,
                             spacing=self.spacing)
        return _BlockWriter(predictor, LabelStore.open(self.store))


class _BlockWriter:
    def __init__(self, predictor: Ensemble, store: LabelStore):
        self._predictor, self._store = predictor, store

    def __call__(self, block: Block) -> BlockReport:
        begun = time.monotonic()
        result = self._predict(block)
        digest = hashlib.sha256()
        for name, array in ((PROBABILITIES, result.probabilities), (ENTROPY, result.entropy), (DISAGREEMENT, result.disagreement),
                            (LABELS, result.labels)):
            if array is not None and (name == LABELS or self._store.layout.array(name) is not None):
                self._store.write(block.region, array, name)
                digest.update(array.tobytes())
        return BlockReport(result.labels.size, time.monotonic() - begun, result.windows, result.skipped, digest.hexdigest())

    def _predict(self, block: Block) -> BlockResult:
        try:
            return self._predictor.predict(block)
        except RuntimeError as error:  # torch's, of many lines, and nnU-Net's for infinite logits
            raise OSError(f"block {block.index} (region {describe_region(block.region)}) could not be predicted "
                          f"({str(error).strip().splitlines()[0]}); what is finished stays") from error
