"""What a measure and a count step are, and the register of them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

Counts = Mapping[str, Any]
Box = tuple[slice, ...]
Sides = tuple[tuple[bool, bool], ...]
_SURROUNDINGS = ("none", "halo", "whole")
_NEEDS = ("probability",)


@dataclass(frozen=True)
class Masks:
    """One class of one case, or a block of it.

    Attributes:
        prediction: (z, y, x) bool.
        reference: (z, y, x) bool.
        annotated: (z, y, x) bool, false where the reference says "ignore"; such voxels count nowhere.
        tolerance: for the tolerant measures, in the unit of `spacing`.
        spacing: voxel size (z, y, x), in micrometres for microscopy, millimetres for MRI; 1 where it is not known.
        inner: the voxels to be counted, as a box; what lies around it is there to be seen. None counts everything.
        object_ids: (z, y, x) integers of prediction and reference, 0 where there is no object; None takes connected components (26
            neighbours) of the masks.
        probability: (z, y, x) float32 of the class in the prediction, or None where only labels are known.
        open_sides: per axis, whether the volume goes on before and behind these arrays. None takes every side that `inner` does not
            reach as open; a halo that ends where the volume ends must say so.
    """

    prediction: np.ndarray
    reference: np.ndarray
    annotated: np.ndarray
    tolerance: float = 2
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
    inner: Box | None = None
    object_ids: tuple[np.ndarray, np.ndarray] | None = None
    probability: np.ndarray | None = None
    open_sides: Sides | None = None

    @property
    def unseen_sides(self) -> Sides:
        """Per axis, whether the volume goes on unseen before and behind these arrays."""
        if self.open_sides is not None:
            return self.open_sides
        if self.inner is None:
            return ((False, False),) * self.reference.ndim
        bounds = [part.indices(size) for part, size in zip(self.inner, self.reference.shape, strict=True)]
        return tuple((start > 0, stop < size) for (start, stop, _), size in zip(bounds, self.reference.shape, strict=True))

    @cached_property
    def objects(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids of the objects of prediction and reference, (z, y, x) integers, 0 where there is none.

        Where no ids are given, they are the connected components of the annotated part of each mask.
        """
        if self.object_ids is not None:
            return self.object_ids
        import cc3d

        return tuple(cc3d.connected_components(mask & self.annotated, connectivity=26) for mask in (self.prediction, self.reference))

    def within(self) -> Masks:
        """The inner voxels alone."""
        if self.inner is None:
            return self

        def cut(voxels: np.ndarray | None) -> np.ndarray | None:
            return None if voxels is None else voxels[self.inner]

        ids = None if self.object_ids is None else tuple(map(cut, self.object_ids))
        return replace(self, prediction=cut(self.prediction), reference=cut(self.reference), annotated=cut(self.annotated), inner=None,
                       object_ids=ids, probability=cut(self.probability))


class NeedsMoreSurroundings(Exception):
    """A block cannot be counted with what is seen around it."""


@dataclass(frozen=True)
class CountStep:
    """Turns masks into counts.

    Attributes:
        tally: masks to named amounts, each of which can be added (+) to that of another block.
        finish: the summed amounts of a case to counts, which can be added to those of another case.
        surroundings: what a block must see to give the same counts as the whole: "none"; "halo", voxels around `Masks.inner`, of which
            the step counts the inner ones, and raises `NeedsMoreSurroundings` where the halo is too narrow to be sure; "whole" cannot be
            done in blocks.
        needs: "probability" where the step cannot work without.
    """

    tally: Callable[[Masks], dict[str, Any]]
    finish: Callable[[Counts], dict[str, Any]]
    surroundings: Literal["none", "halo", "whole"] = "none"
    needs: tuple[str, ...] = ()

    def __call__(self, masks: Masks) -> dict[str, Any]:
        """Counts of a case that is in memory."""
        return self.finish(self.tally(masks.within() if self.surroundings == "none" else masks))


@dataclass(frozen=True)
class Measure:
    """A formula with what is known about it.

    Attributes:
        name: key in scores.json, column in scores.csv.
        formula: counts to value; both masks have voxels.
        counts: the step that makes the counts.
        best: the value of a perfect prediction.
        higher_is_better: direction; None where a value can miss the best one on both sides.
        dimension: power of a length that the value is: 0 for a ratio or a number, 1 for a length. It is in the unit of the voxel size.
        both_empty: value where neither mask has a voxel.
        prediction_empty: value where only the reference has voxels; None asks the formula.
        reference_empty: value where only the prediction has voxels; None asks the formula.
        limits: lowest and highest value that is possible.
        also_called: other names of the same number.
        source: paper.
        family: module that holds it.
    """

    name: str
    formula: Callable[[Counts], float]
    counts: CountStep
    best: float
    higher_is_better: bool | None
    dimension: int
    both_empty: float
    prediction_empty: float | None
    reference_empty: float | None
    limits: tuple[float, float] = (0.0, 1.0)
    also_called: tuple[str, ...] = ()
    source: str = ""
    family: str = field(default="", compare=False)

    @property
    def description(self) -> str:
        """The formula's docstring."""
        return inspect.getdoc(self.formula) or ""

    def value(self, counts: Counts) -> float:
        """The measure of these counts, of one case or summed over cases."""
        predicted = counts["true_positive"] + counts["false_positive"]
        referenced = counts["true_positive"] + counts["false_negative"]
        if not predicted and not referenced:
            return self.both_empty
        if not predicted and self.prediction_empty is not None:
            return self.prediction_empty
        if predicted and not referenced and self.reference_empty is not None:
            return self.reference_empty
        return float(self.formula(counts))


MEASURES: dict[str, Measure] = {}


def count_step(*, surroundings: Literal["none", "halo", "whole"] = "none", needs: Sequence[str] = (),
               finish: Callable[[Counts], dict[str, Any]] = dict) -> Callable[[Callable[[Masks], dict[str, Any]]], CountStep]:
    """Make a function of masks a count step; see `CountStep` for the arguments."""
    if surroundings not in _SURROUNDINGS or any(name not in _NEEDS for name in needs):
        raise ValueError(f"a count step has surroundings {surroundings!r} and needs {tuple(needs)}; expected one of {_SURROUNDINGS} and "
                         f"some of {_NEEDS}")
    return lambda function: CountStep(function, finish, surroundings, tuple(needs))


def measure(
    name: str,
    counts: CountStep,
    *,
    reference_empty: float | None,
    both_empty: float = math.nan,
    prediction_empty: float | None = 0.0,
    best: float = 1.0,
    higher_is_better: bool | None = True,
    dimension: int = 0,
    limits: tuple[float, float] = (0.0, 1.0),
    also_called: Sequence[str] = (),
    source: str = "",
) -> Callable[[Callable[[Counts], float]], Callable[[Counts], float]]:
    """Register a formula as a measure; see `Measure` for the arguments."""

    def register(formula: Callable[[Counts], float]) -> Callable[[Counts], float]:
        if name in MEASURES:
            raise ValueError(f"two measures are called {name}; rename {formula.__module__}.{formula.__qualname__}")
        MEASURES[name] = Measure(
            name, formula, counts, best, higher_is_better, dimension, both_empty, prediction_empty, reference_empty, limits,
            tuple(also_called), source, formula.__module__.rpartition(".")[2]
        )
        return formula

    return register


def families() -> dict[str, list[Measure]]:
    """The measures by the module that holds them."""
    found: dict[str, list[Measure]] = {}
    for one in MEASURES.values():
        found.setdefault(one.family, []).append(one)
    return found


def selected(words: Iterable[str]) -> dict[str, Measure]:
    """The measures of these families and names, in the order of `MEASURES`.

    Raises:
        ValueError: an unknown word; the message lists the choices.
    """
    by_family, words = families(), list(words)
    unknown = [word for word in words if word not in by_family and word not in MEASURES]
    if unknown:
        raise ValueError(f"no measure or family {', '.join(map(repr, unknown))}; expected some of {', '.join(by_family)}, or of "
                         f"{', '.join(MEASURES)}")
    return {name: one for name, one in MEASURES.items() if name in words or one.family in words}


def count(masks: Masks, measures: Mapping[str, Measure] = MEASURES) -> dict[str, Any]:
    """All counts that these measures ask for, and the voxels of each mask; each count step runs once.

    Raises:
        ValueError: the masks lack what a step needs; see `without_unmet`.
    """
    if any("probability" in step.needs for step in steps_of(measures)) and masks.probability is None:
        raise ValueError("probabilities were not given; leave out the measures that need them")
    return {name: number for step in steps_of(measures) for name, number in step(masks).items()}


def steps_of(measures: Mapping[str, Measure]) -> list[CountStep]:
    """The count steps of these measures, each once; the voxels of each mask, which decide on empty ones, come first."""
    from nnunet_neuro.evaluate.measures.overlap import overlap_counts

    return list(dict.fromkeys([overlap_counts, *(one.counts for one in measures.values())]))


def without_unmet(measures: Mapping[str, Measure], *, probability: bool) -> dict[str, Measure]:
    """The measures that can be computed with what there is."""
    return {name: one for name, one in measures.items() if probability or "probability" not in one.counts.needs}


def added(first: Counts, second: Counts) -> dict[str, Any]:
    """Amounts of two blocks or counts of two cases, summed by name."""
    return {name: first[name] + second[name] for name in first}


def values(counts: Counts, measures: Mapping[str, Measure] = MEASURES) -> dict[str, float]:
    """Every measure of these counts by name."""
    return {name: one.value(counts) for name, one in measures.items()}
