"""Scores of cases, and what they come to over all cases."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import reduce
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_neuro.evaluate import measures
from nnunet_neuro.evaluate.label_names import LabelNames
from nnunet_neuro.evaluate.measures import MEASURES, Measure
from nnunet_neuro.evaluate.pairing import Pair
from nnunet_neuro.evaluate.sources import known_spacing, tolerance_for
from nnunet_neuro.volumes import Region

_LIBRARIES = ("nnunet_neuro", "numpy", "scipy", "scikit-image", "tifffile", "nibabel")


@dataclass(frozen=True)
class CaseScores:
    """One case.

    Attributes:
        pair: the files.
        counts: class to named counts: whole numbers, and what else some measures need, which can be added.
        values: class to measure to value; NaN where a measure is undefined.
        voxels: number of voxels.
        annotated: number of voxels without the ignore label.
        sha256: of every file compared, by role.
        blocks: how many blocks it was measured in; 1 for one piece.
        left_out: measure to the reason why it could not be measured.
        fullest: of a case in blocks, the one with most voxels of the reference, which is small enough to be drawn.
    """

    pair: Pair
    counts: dict[str, dict[str, Any]]
    values: dict[str, dict[str, float]]
    voxels: int
    annotated: int
    sha256: dict[str, str]
    blocks: int = 1
    left_out: dict[str, str] = field(default_factory=dict)
    fullest: Region | None = None

    @property
    def spacing(self) -> tuple[float, float, float] | None:
        """Voxel size (z, y, x), or None where no file states it; lengths are in voxels then."""
        return known_spacing(self.pair)


@dataclass(frozen=True)
class Evaluation:
    """Every case of a comparison.

    Attributes:
        predictions: folder, volume, or results folder of a cross-validation.
        references: folder or volume.
        names: classes and ignore label.
        tolerance: length in the unit of the voxel size; None for two voxels of each case, see `tolerance_of`.
        cases: scores per case, sorted by name.
        left_out: references without prediction, left out on request.
        made_with: versions of Python and the libraries.
        made_on: time of the evaluation, ISO 8601.
        files: what was written.
        measured: the measures of every table, by name.
        left_out_measures: measure to the reason why it was left out of all tables: one case at least was too large for it.
        field_of_use: a key of `fields.FIELDS`, or None.
        warnings: what a reader must know, a sentence each.
    """

    predictions: Path
    references: Path
    names: LabelNames
    tolerance: float | None
    cases: list[CaseScores]
    left_out: list[str]
    made_with: dict[str, str] = field(default_factory=lambda: versions())
    made_on: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    files: list[Path] = field(default_factory=list)
    measured: dict[str, Measure] = field(default_factory=lambda: dict(MEASURES))
    left_out_measures: dict[str, str] = field(default_factory=dict)
    field_of_use: str | None = None
    warnings: list[str] = field(default_factory=list)

    def tolerance_of(self, case: CaseScores) -> float:
        """The tolerance that a case was measured with, in the unit of its voxel size."""
        return tolerance_for(case.spacing, self.tolerance)

    @property
    def mean(self) -> dict[str, dict[str, float]]:
        """Class to measure to the mean of the cases' values, each case weighing the same; undefined values left out."""
        return self._of_cases(lambda found: float(np.mean(found)) if found else math.nan)

    @property
    def deviation(self) -> dict[str, dict[str, float]]:
        """Class to measure to the standard deviation over the cases (n - 1); NaN for fewer than two values."""
        return self._of_cases(lambda found: float(np.std(found, ddof=1)) if len(found) > 1 else math.nan)

    @property
    def cases_in_mean(self) -> dict[str, dict[str, int]]:
        """Class to measure to the number of cases whose value is defined."""
        return self._of_cases(len)

    @property
    def pooled_counts(self) -> dict[str, dict[str, Any]]:
        """Class to named counts summed over the cases."""
        return {name: reduce(measures.added, (case.counts[name] for case in self.cases)) for name in self.names.classes}

    @property
    def pooled(self) -> dict[str, dict[str, float]]:
        """Class to measure of the summed counts, as if all cases were one volume; every voxel weighs the same."""
        return {name: measures.values(counts, self.measured) for name, counts in self.pooled_counts.items()}

    def _of_cases(self, summary: Callable[[list[float]], float]) -> dict[str, dict[str, float]]:
        return {
            name: {key: summary([case.values[name][key] for case in self.cases if not math.isnan(case.values[name][key])])
                   for key in self.measured}
            for name in self.names.classes
        }


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries whose code the scores depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}
