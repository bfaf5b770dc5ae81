"""What a prediction is asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_neuro.predict.exports import KINDS
from nnunet_neuro.predict.inputs import Channels
from nnunet_neuro.predict.job import ModelChoice
from nnunet_neuro.predict.options import PredictOptions
from nnunet_neuro.predict.runs import shard

METHODS = ("components", "watershed")
PROBABILITY_DTYPES = ("uint8", "float16")
_ZARR = (".ome.zarr", ".zarr")
_FILES = (".nii.gz", ".nii", ".ome.tiff", ".ome.tif", ".tiff", ".tif")


@dataclass(frozen=True)
class Instances:
    """How objects are made of the labels.

    Attributes:
        method: "components", or "watershed" with seeds where objects are thick.
        minimum_voxels: smaller objects become background.
        seed_depth: of the watershed, in the unit of the voxel size.

    Raises:
        ValueError: what cannot be.
    """

    method: str = "components"
    minimum_voxels: int = 1
    seed_depth: float | None = None

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f"instances by {self.method!r} were asked for; expected one of {', '.join(METHODS)}")
        if self.minimum_voxels < 1:
            raise ValueError(f"objects of at least {self.minimum_voxels} voxels were asked for; expected 1 or more")
        if self.seed_depth is not None and not self.seed_depth > 0:
            raise ValueError(f"a seed depth of {self.seed_depth:g} was asked for; expected a length above 0")


@dataclass(frozen=True)
class PredictionRequest:
    """What is asked for.

    Attributes:
        models: one, or several whose probabilities are averaged.
        channels: the input.
        output: OME-Zarr folder, or a file or folder of `kind`; made absolute.
        kind: None for OME-Zarr, or one of `exports.KINDS`.
        options: how to predict.
        spacing: (z, y, x) voxel size; None for that of the input.
        any_spacing: also predict voxels of quite another size than the model was trained for.
        chunk: (z, y, x) of a stored chunk.
        memory: bytes for all workers together.
        workers: processes.
        scheduler: address of a dask cluster.
        shard: `i/N`; None for everything.
        probability_dtype: of stored probabilities and uncertainty, one of `PROBABILITY_DTYPES`.
        instances: None for none.
        preview: write a picture.
        progress: show bars on stderr.

    Raises:
        ValueError: what cannot be, whatever the models and the input are.
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

    def __post_init__(self):
        object.__setattr__(self, "output", Path(self.output).absolute())  # a worker may be in another folder
        if not self.models:
            raise ValueError("no model was named; name at least one")
        if self.kind is not None and self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is no format of an output; expected one of {', '.join(KINDS)}, or None for OME-Zarr")
        if len(self.chunk) != 3 or min(self.chunk) < 1:
            raise ValueError(f"chunks of {self.chunk} voxels were asked for; expected three whole numbers from 1 on, such as (64, 64, 64)")
        if self.workers < 1:
            raise ValueError(f"{self.workers} workers were asked for; expected 1 or more")
        if self.probability_dtype not in PROBABILITY_DTYPES:
            raise ValueError(f"probabilities of type {self.probability_dtype!r} were asked for; expected one of "
                             f"{', '.join(PROBABILITY_DTYPES)}")
        if self.shard is not None:
            shard((), self.shard)

    def beside(self, ending: str) -> Path:
        """A file beside the output: `brain.zarr` has `brain.summary.json`, and `brain.nii.gz` has `brain.nii.gz.summary.json`."""
        name = self.output.name
        return self.output.with_name(_without(name, _ZARR if self.kind is None else ()) + ending)

    def further_export(self, array: str, channel: int, of: str) -> Path:
        """Where an array beside the labels is exported to, `brain.probabilities_1_axon.tif`.

        Args:
            array: its name.
            channel: number of one of its channels.
            of: name of the channel; empty for an array without channels.
        """
        name = self.output.name
        stem = _without(name, _FILES)
        which = f"_{channel}_{re.sub(r'[^A-Za-z0-9-]+', '_', of)}" if of else ""
        return self.output.with_name(f"{stem}.{array}{which}{name[len(stem):]}")

    @property
    def store_path(self) -> Path:
        """Where blocks are written to."""
        return self.output if self.kind is None else self.beside(".work.zarr")

    @property
    def summary_path(self) -> Path:
        """The last file that appears."""
        return self.beside(".summary.json")

    @property
    def table_path(self) -> Path:
        """Where the table of objects goes."""
        return self.beside(".objects.csv")

    @property
    def preview_path(self) -> Path:
        """Where the picture goes."""
        return self.beside(".png")


def _without(name: str, endings: tuple[str, ...]) -> str:
    ending = next((ending for ending in endings if name.lower().endswith(ending) and len(name) > len(ending)), "")
    return name[:len(name) - len(ending)]
