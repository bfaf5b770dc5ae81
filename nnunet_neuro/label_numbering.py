"""Which numbering of the classes a label volume uses, told from how much of each value there is and how long its objects are.

Nothing in a label volume says what its numbers mean, and copies of one data set are numbered differently. Two facts are measured: the
fraction of the voxels of each value in each region, and the longest side of its connected components, by which a branching tube (a
vessel) differs from a compact body (a cell).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# a shorter stack cuts tubes to the length of cells, which are about 10 planes long
_PLANES_TO_MEASURE_LENGTHS = 32
# how many times longer one class must be before lengths say anything
_CLEARLY_LONGER = 1.5


@dataclass(frozen=True)
class ValueMeasure:
    """What was measured of one value in one region.

    Attributes:
        voxels: with the value.
        labelled: voxels of the planes that hold any label.
        measured: voxels in objects of which the length was measured; 0 where too few labelled planes follow each other.
        length: mean longest side of the connected components (6 neighbours), weighted by their voxels, in voxels.
    """

    voxels: int
    labelled: int
    measured: int
    length: float

    @property
    def fraction(self) -> float:
        """Of the voxels of the labelled planes."""
        return self.voxels / self.labelled if self.labelled else 0.0


@dataclass(frozen=True)
class Expectation:
    """How much there should be of a class: a fraction from `low` to `high` in `region`, or in every region for None."""

    region: str | None
    class_name: str
    low: float
    high: float


def measure_values(labels: np.ndarray, values: Iterable[int]) -> dict[int, ValueMeasure]:
    """Measure every value in one stack of planes.

    Args:
        labels: (z, y, x) integers. Planes that hold none of `values` are not labelled and count nowhere.
        values: the class numbers, without the background.

    Returns:
        One measure per value.
    """
    values = tuple(values)
    labelled = np.array([bool(np.isin(plane, values).any()) for plane in labels])
    first, stop = _longest_run(labelled)
    stack = labels[first:stop] if stop - first >= _PLANES_TO_MEASURE_LENGTHS else labels[:0]
    measures = {}
    for value in values:
        voxels = sum(int(np.count_nonzero(plane == value)) for plane in labels)
        measures[value] = ValueMeasure(voxels, int(labelled.sum()) * labels[0].size, *_length_of_objects(stack == value))
    return measures


def pooled(measures: Iterable[ValueMeasure]) -> ValueMeasure:
    """The measures of several stacks as one."""
    measures = list(measures)
    measured = sum(each.measured for each in measures)
    length = sum(each.measured * each.length for each in measures) / measured if measured else 0.0
    return ValueMeasure(sum(each.voxels for each in measures), sum(each.labelled for each in measures), measured, length)


def _longest_run(labelled: np.ndarray) -> tuple[int, int]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], labelled.astype(np.int8), [0]])))
    runs = list(zip(edges[::2], edges[1::2]))
    return max(runs, key=lambda run: run[1] - run[0]) if runs else (0, 0)


def _length_of_objects(mask: np.ndarray) -> tuple[int, float]:
    from scipy import ndimage

    components, number = ndimage.label(mask)
    if not number:
        return 0, 0.0
    sizes = np.bincount(components.ravel())[1:]
    sides = [max(part.stop - part.start for part in box) for box in ndimage.find_objects(components)]
    return int(sizes.sum()), float(np.average(sides, weights=sizes))


def contradictions(measures: Mapping[str, Mapping[int, ValueMeasure]], numbering: Mapping[str, int],
                   expectations: Sequence[Expectation], *, longer: str, shorter: str) -> list[str]:
    """What speaks against a numbering, one phrase each; empty where nothing does.

    Args:
        measures: region -> value -> what was measured.
        numbering: class name -> value.
        expectations: fractions that the classes should have.
        longer, shorter: classes of which the first has the longer objects.
    """
    found = []
    for expected in expectations:
        for region, of_value in measures.items():
            fraction = of_value[numbering[expected.class_name]].fraction
            if expected.region in (None, region) and not expected.low <= fraction <= expected.high:
                bound = f"at least {expected.low:.1%}" if fraction < expected.low else f"at most {expected.high:.1%}"
                found.append(f"{expected.class_name} would be {fraction:.1%} of {region}, expected {bound}")
    lengths = [_pooled_length(measures, numbering[name]) for name in (longer, shorter)]
    if all(lengths) and lengths[1] > _CLEARLY_LONGER * lengths[0]:
        found.append(f"objects of {shorter} would be {lengths[1]:.0f} voxels long and those of {longer} {lengths[0]:.0f}, expected the "
                     "reverse")
    return found


def are_told_apart(measures: Mapping[str, Mapping[int, ValueMeasure]], numbering: Mapping[str, int], *, longer: str, shorter: str) -> bool:
    """Whether the lengths of two classes differ clearly, so that exchanging them would have been found."""
    lengths = [_pooled_length(measures, numbering[name]) for name in (longer, shorter)]
    return all(lengths) and max(lengths) > _CLEARLY_LONGER * min(lengths)


def _pooled_length(measures: Mapping[str, Mapping[int, ValueMeasure]], value: int) -> float:
    return pooled(of_value[value] for of_value in measures.values()).length
