"""What a prediction is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nnunet_neuro.predict.inputs import Channels
from nnunet_neuro.predict.job import ModelChoice
from nnunet_neuro.predict.options import PredictOptions
from nnunet_neuro.volumes import strip_suffix


@dataclass(frozen=True)
class Instances:
    """How objects are made of the labels.

    Attributes:
        method: "components", or "watershed" with seeds where objects are thick.
        minimum_voxels: smaller objects become background.
        seed_depth: of the watershed, in the unit of the voxel size.
    """

    method: str = "components"
    minimum_voxels: int = 1
    seed_depth: float | None = None


@dataclass(frozen=True)
class PredictionRequest:
    """What is asked for.

    Attributes:
        models: one, or several whose probabilities are averaged.
        channels: the input.
        output: OME-Zarr folder, or a file or folder of `kind`.
        kind: None for OME-Zarr, or one of `exports.KINDS`.
        options: how to predict.
        spacing: (z, y, x) voxel size; None for that of the input.
        any_spacing: also predict voxels of quite another size than the model was trained for.
        chunk: (z, y, x) of a stored chunk.
        memory: bytes for all workers together.
        workers: processes.
        scheduler: address of a dask cluster.
        shard: `i/N`; None for everything.
        probability_dtype: of stored probabilities and uncertainty.
        instances: None for none.
        preview: write a picture.
        progress: show bars on stderr.
    """

    models: tuple[ModelChoice, ...]
    channels: Channels
    output: Path
    kind: str | None = None
    options: PredictOptions = field(default_factory=PredictOptions)
    spacing: tuple[float, ...] | None = None
    any_spacing: bool = False
    chunk: tuple[int, int, int] = (64, 64, 64)
    memory: int = 8 << 30
    workers: int = 1
    scheduler: str | None = None
    shard: str | None = None
    probability_dtype: str = "uint8"
    instances: Instances | None = None
    preview: bool = False
    progress: bool = True

    def beside(self, ending: str) -> Path:
        """A file beside the output."""
        return self.output.with_name(strip_suffix(self.output) + ending)

    @property
    def store_path(self) -> Path:
        """Where blocks are written to."""
        return self.output if self.kind is None else self.beside(".work.zarr")
