"""Several models for one volume, such as two configurations or the three views of a 2D network: the mean of their probabilities decides.

That is what `nnUNetv2_ensemble` does with whole files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from nnunet_neuro.predict.block_predictor import BlockPredictor, BlockResult
from nnunet_neuro.predict.model import TrainedModel
from nnunet_neuro.predict.options import PredictOptions
from nnunet_neuro.predict.statistics import VolumeStatistics
from nnunet_neuro.predict.voxel_outputs import entropy_of
from nnunet_neuro.predict.windows import Block
from nnunet_neuro.volumes import Volume


class Ensemble:
    """Predicts blocks with one model or with the mean of several.

    Args:
        models: of the same channels and labels.
        volumes: one for each channel, (z, y, x).
        statistics: of these volumes, for each model.
        options: how to predict.
        spacing: (z, y, x) voxel size; None for that of the volumes.

    Raises:
        ValueError: models that do not belong together, or volumes that do not fit them.
    """

    def __init__(self, models: Sequence[TrainedModel], volumes: Sequence[Volume], statistics: Sequence[VolumeStatistics],
                 options: PredictOptions, *, spacing: Sequence[float] | None = None):
        check_models(models)
        self._options = options
        own = options if len(models) == 1 else replace(options, probabilities=True, entropy=False, disagreement=False)
        self._predictors = [BlockPredictor(model, volumes, found, own, spacing=spacing) for model, found in zip(models, statistics)]

    def predict(self, block: Block) -> BlockResult:
        """As `BlockPredictor.predict`; the disagreement of several models is the share that votes for another label than their mean."""
        results = [predictor.predict(block) for predictor in self._predictors]
        return results[0] if len(results) == 1 else self._mean(results)

    def _mean(self, results: Sequence[BlockResult]) -> BlockResult:
        manager = self._predictors[0].model.label_manager
        shares = sum(result.probabilities for result in results) / len(results)
        labels = np.asarray(manager.convert_probabilities_to_segmentation(shares)).astype(results[0].labels.dtype)
        entropy = disagreement = None
        if self._options.entropy:
            entropy = entropy_of(torch.from_numpy(shares), manager.has_regions).half().numpy()
        if self._options.disagreement:
            disagreement = np.mean([result.labels != labels for result in results], axis=0).astype(np.float16)
        return BlockResult(labels, shares if self._options.probabilities else None, entropy, disagreement,
                           sum(result.windows for result in results), sum(result.skipped for result in results))


def check_models(models: Sequence[TrainedModel]) -> None:
    """Refuse models whose probabilities cannot be averaged.

    Raises:
        ValueError: other channels or labels.
    """
    first = models[0]
    for model in models[1:]:
        for what, of_first, of_model in (("channels", first.channels, model.channels),
                                         ("labels", first.dataset_json["labels"], model.dataset_json["labels"])):
            if of_first != of_model:
                raise ValueError(f"{first.folder} has the {what} {of_first}, but {model.folder} has {of_model}; only models of the same "
                                 "channels and labels are averaged")
