"""How well would axons be traced? Missed and extra length of centre lines, breaks and false merges.

Centre lines and the tolerance are those of clDice (see `centrelines`), but weighed by length: an oblique step is longer than a straight
one, and a step along a coarse axis longer than one along a fine axis. Lengths are in the unit of the voxel size, of the edges of the
skeleton's graph (see `skeleton_graph`). Pooled lengths and numbers are those of the average case.
"""

from __future__ import annotations

import math

from nnunet_neuro.evaluate.measures.centrelines import skeleton_counts
from nnunet_neuro.evaluate.measures.registry import Counts, measure

_NONE_MISSED = {"best": 0.0, "higher_is_better": False}
_ANY = (0.0, math.inf)


@measure("missed_length", skeleton_counts, dimension=1, limits=_ANY, prediction_empty=None, reference_empty=0.0, **_NONE_MISSED)
def missed_length(counts: Counts) -> float:
    """Length of the reference's centre lines that have no voxel of the prediction within the tolerance.

    This is what an annotator would have to add; where nothing was predicted, the whole length of the reference.
    """
    return counts["skeleton_reference_length_beyond"] / counts["skeleton_cases"]


@measure("extra_length", skeleton_counts, dimension=1, limits=_ANY, prediction_empty=0.0, reference_empty=None, **_NONE_MISSED)
def extra_length(counts: Counts) -> float:
    """Length of the prediction's centre lines that have no voxel of the reference within the tolerance.

    This is what an annotator would have to delete; where the reference is empty, the whole length of the prediction.
    """
    return counts["skeleton_prediction_length_beyond"] / counts["skeleton_cases"]


@measure("missed_length_share", skeleton_counts, prediction_empty=1.0, reference_empty=math.nan, **_NONE_MISSED)
def missed_length_share(counts: Counts) -> float:
    """Share of the length of the reference's centre lines that was missed; 0.1 means that a tenth of the wiring is not found.

    Close to 1 - clRecall_tolerant, which counts voxels. Undefined where the centre lines are single voxels, which have no length.
    """
    return _over(counts["skeleton_reference_length_beyond"], counts["skeleton_reference_length"])


@measure("extra_length_share", skeleton_counts, prediction_empty=math.nan, reference_empty=1.0, **_NONE_MISSED)
def extra_length_share(counts: Counts) -> float:
    """Share of the length of the prediction's centre lines that the reference does not have.

    Close to 1 - clPrecision_tolerant, which counts voxels. Undefined where the centre lines are single voxels, which have no length.
    """
    return _over(counts["skeleton_prediction_length_beyond"], counts["skeleton_prediction_length"])


@measure("breaks", skeleton_counts, limits=_ANY, prediction_empty=math.nan, reference_empty=math.nan, **_NONE_MISSED)
def breaks(counts: Counts) -> float:
    """Number of gaps: how often the prediction leaves a centre line of the reference and takes it up again.

    A gap between two found parts counts once, a missed junction of three found parts twice, a missed end not at all, so that few breaks
    say nothing where much is missed. What the tolerance bridges is no gap; a tolerance of 0 counts every gap.
    """
    return counts["breaks"] / counts["skeleton_cases"]


@measure("breaks_per_length", skeleton_counts, dimension=-1, limits=_ANY, prediction_empty=math.nan, reference_empty=math.nan,
         **_NONE_MISSED)
def breaks_per_length(counts: Counts) -> float:
    """Breaks per length of the reference's centre lines: per millimetre where the voxel size is in millimetres.

    Its inverse is the length that is traced between two breaks, on average. Undefined where the centre lines have no length.
    """
    return _over(counts["breaks"], counts["skeleton_reference_length"])


@measure("false_merges", skeleton_counts, limits=_ANY, prediction_empty=math.nan, reference_empty=math.nan, **_NONE_MISSED)
def false_merges(counts: Counts) -> float:
    """Number of cuts that the predicted objects need until none of them joins two objects of the reference.

    A predicted object that joins k objects of the reference counts k - 1 times. It joins those on whose centre lines it is the nearest
    predicted object within the tolerance. Objects of the reference no further than the tolerance apart count as one.
    """
    return counts["false_merges"] / counts["skeleton_cases"]


@measure("false_merges_per_length", skeleton_counts, dimension=-1, limits=_ANY, prediction_empty=math.nan, reference_empty=math.nan,
         **_NONE_MISSED)
def false_merges_per_length(counts: Counts) -> float:
    """False merges per length of the reference's centre lines: per millimetre where the voxel size is in millimetres.

    Undefined where the centre lines have no length.
    """
    return _over(counts["false_merges"], counts["skeleton_reference_length"])


def _over(part: float, length: float) -> float:
    return part / length if length else math.nan
