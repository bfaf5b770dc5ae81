"""The measures of D-LMBmap (Li et al., Nature Methods 2023), for numbers that can be laid beside those of its authors.

Both masks are max-pooled, so that lines drawn a few voxels apart meet, and then compared. The windows are cubes of 5, 10 or 15 voxels; 10
is what the authors set. As theirs is torch's max-pooling without padding, voxel i of the pooled mask is the window [i, i + kernel), and an
axis of n voxels has n - kernel + 1 windows. `..._maxpool10` moves the window by one voxel (their `eval_volumes2.py`);
`..._maxpool5_strided` by its own length, which drops the remainder at the end of an axis (their whole-brain segmenter, whose window is 5).
Measures named `..._soft`, and T-IoU, are those of the segmenter's single cubes, without pooling.

Centre lines are soft skeletons of binary masks: five times, what a mask loses by erosion (6 neighbours) and a dilation (26 neighbours) of
the rest regains is taken away. That leaves other lines than thinning does (see `centrelines`), so the numbers of the two families are not
comparable.

Where theirs leaves something open or fails:

- Ignored voxels, which they do not have, are background in both masks before pooling.
- A window is cut to an axis that is shorter; theirs stops with an error.
- Where prediction or reference is empty the declared values hold, as everywhere in this package; theirs gives 1 / (voxels + 1) for Dice,
  and for two empty masks 1 for Dice and clDice and 0 for IoU.
- Their sums are single precision, in which the 1e-8 and 1e-12 of their denominators vanish beside a count; here counts are exact.
- Pooled over cases, a smooth of 1 is added per case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial, wraps

import numpy as np

from nnunet_neuro.evaluate.measures.registry import Box, Counts, Masks, NeedsMoreSurroundings, count_step, measure
from nnunet_neuro.skeletons import bounding_box

CUBE = 128  # voxels; edge of the cubes that D-LMBmap trains and validates with
_SKELETON_ROUNDS = 5
_SOURCE = "Li et al., D-LMBmap: a fully automated deep-learning pipeline for whole-brain profiling of neural circuitry, Nature Methods 2023"
_KEYS = ("prediction", "reference", "both", "on_ring", "lines_prediction", "lines_prediction_hit", "lines_reference", "lines_reference_hit",
         "cases")


def dice(counts: Counts) -> float:
    """Dice of the pooled masks, with 1 added to numerator and denominator; forgives lines that are beside the reference by up to a window.

    Everything is thick after pooling, so it is higher than Dice; compare only values of the same window.
    """
    return (2 * counts["both"] + counts["cases"]) / (counts["prediction"] + counts["reference"] + counts["cases"])


def iou(counts: Counts) -> float:
    """Intersection over union of the pooled masks. 0 where pooling left neither mask a voxel."""
    return _share(counts["both"], counts["prediction"] + counts["reference"] - counts["both"], nothing=0.0)


def t_iou(counts: Counts) -> float:
    """Tolerant IoU: the prediction may touch the ring of voxels (6 neighbours) around the reference.

    (intersection + predicted voxels of the ring) / (union + predicted voxels of the ring). A voxel of the ring is one more in the union
    already, so it counts half: a prediction that fills the whole ring has less than 1, as in the authors' code.
    """
    union = counts["prediction"] + counts["reference"] - counts["both"]
    return _share(counts["both"] + counts["on_ring"], union + counts["on_ring"], nothing=0.0)


def cl_dice(counts: Counts) -> float:
    """Harmonic mean of clPrecision and clRecall by soft skeletons."""
    first, second = cl_precision(counts), cl_recall(counts)
    return 2 * first * second / (first + second) if first + second else 0.0


def cl_precision(counts: Counts) -> float:
    """Share of the prediction's soft skeleton that lies in the reference; the authors print it as ClAcc."""
    return _share(counts["lines_prediction_hit"], counts["lines_prediction"], nothing=1.0)


def cl_recall(counts: Counts) -> float:
    """Share of the reference's soft skeleton that lies in the prediction."""
    return _share(counts["lines_reference_hit"], counts["lines_reference"], nothing=1.0)


def precision(counts: Counts) -> float:
    """Share of the prediction's pooled voxels that the reference holds too; the authors print it as Acc."""
    return _share(counts["both"], counts["prediction"], nothing=1.0)


def recall(counts: Counts) -> float:
    """Share of the reference's pooled voxels that were predicted."""
    return _share(counts["both"], counts["reference"], nothing=1.0)


def pooled_counts(masks: Masks, *, kernel: int, strided: bool, suffix: str) -> dict[str, int]:
    """What the pooled masks, the ring of the reference and the soft skeletons share.

    With a stride of one, each window is counted by the block that holds its first voxel.

    Raises:
        NeedsMoreSurroundings: a block that does not see the windows that begin in it, and around these what the skeleton depends on.
    """
    inner = (slice(None),) * masks.reference.ndim
    if masks.inner is not None:
        _check_surroundings(masks, before=2 * _SKELETON_ROUNDS, behind=2 * _SKELETON_ROUNDS + kernel - 1)
        inner = masks.inner
    prediction, reference = (_max_pooled(mask & masks.annotated, kernel, strided) for mask in (masks.prediction, masks.reference))
    numbers = dict.fromkeys((f"{key}{suffix}" for key in _KEYS), 0)
    box = bounding_box(prediction | reference)
    if box is None:
        return numbers
    around = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in box)
    mine = np.zeros(prediction.shape, bool)
    mine[inner] = True
    prediction, reference, mine = prediction[around], reference[around], mine[around]
    lines_prediction, lines_reference = soft_skeleton(prediction), soft_skeleton(reference)
    sets = (prediction, reference, prediction & reference, prediction & _cross_dilated(reference) & ~reference, lines_prediction,
            lines_prediction & reference, lines_reference, lines_reference & prediction)
    return numbers | {f"{key}{suffix}": int(np.count_nonzero(one & mine)) for key, one in zip(_KEYS, sets)}


def once_per_case(counts: Counts, *, suffix: str) -> dict[str, int]:
    """The counts, and that they are of one case."""
    return {**counts, f"cases{suffix}": 1}


@count_step(surroundings="whole")
def junk_counts(masks: Masks) -> dict[str, int]:
    """Wrong voxels, and those of them in cubes without reference."""
    wrong = (masks.prediction ^ masks.reference) & masks.annotated
    reference = masks.reference & masks.annotated
    in_empty = sum(int(np.count_nonzero(wrong[box])) for box in _cubes(wrong.shape) if not reference[box].any())
    return {"junk_wrong": int(np.count_nonzero(wrong)), "junk_wrong_in_empty": in_empty}


@measure("junk_ratio", junk_counts, best=0.0, higher_is_better=False, reference_empty=1.0, source=_SOURCE)
def junk_ratio(counts: Counts) -> float:
    """Share of the wrong voxels that lie in empty cubes: invented where there is nothing, rather than drawn badly.

    0 where nothing is wrong. A cube is empty if the reference has no voxel in it. D-LMBmap's cubes have 128 voxels a side; a case is
    divided into equal parts as close to that as possible, so a case of less than 192 voxels is one cube. Pooled over the cases it is the
    authors' value for a batch.
    """
    return _share(counts["junk_wrong_in_empty"], counts["junk_wrong"], nothing=0.0)


def soft_skeleton(mask: np.ndarray) -> np.ndarray:
    """D-LMBmap's soft skeleton of a binary mask; where the volume ends, nothing is eroded.

    Args:
        mask: bool, any number of axes.
    """
    for _ in range(_SKELETON_ROUNDS):
        eroded = ~_cross_dilated(~mask)
        if not eroded.any():
            break  # nothing is regained, in this round or a later one
        regained = eroded
        for axis in range(mask.ndim):
            regained = _dilated(regained, axis)
        mask = mask & (eroded | ~regained)
    return mask


def _register() -> None:
    formulas = {"Dice": dice, "IoU": iou, "T-IoU": t_iou, "clDice": cl_dice, "clPrecision": cl_precision, "clRecall": cl_recall,
                "precision": precision, "recall": recall}
    soft = ("clDice", "clPrecision", "clRecall")
    unpooled = {"T-IoU": "T-IoU", **{name: f"{name}_soft" for name in soft}}
    _register_window(formulas, unpooled, 1, strided=False, suffix="_soft")
    for kernel in (5, 10, 15):
        suffix = f"_maxpool{kernel}"
        _register_window(formulas, {name: f"{name}{suffix}" for name in formulas}, kernel, strided=False, suffix=suffix)
    printed = ("Dice", "IoU", "T-IoU", *soft)
    _register_window(formulas, {name: f"{name}_maxpool5_strided" for name in printed}, 5, strided=True, suffix="_maxpool5_strided")


def _register_window(formulas: Mapping[str, Callable[[Counts], float]], names: Mapping[str, str], kernel: int, *, strided: bool,
                     suffix: str) -> None:
    step = count_step(surroundings="whole" if strided else "halo", finish=partial(once_per_case, suffix=suffix))(
        partial(pooled_counts, kernel=kernel, strided=strided, suffix=suffix)
    )
    for formula, name in names.items():
        empty = math.nan if "recall" in formula.lower() else 0.0
        measure(name, step, reference_empty=empty, source=_SOURCE)(_of_window(formulas[formula], suffix))


def _of_window(formula: Callable[[Counts], float], suffix: str) -> Callable[[Counts], float]:
    """The formula on the counts of one window, whose names end in `suffix`."""

    @wraps(formula)
    def windowed(counts: Counts) -> float:
        return formula({key: counts[f"{key}{suffix}"] for key in _KEYS})

    return windowed


def _check_surroundings(masks: Masks, *, before: int, behind: int) -> None:
    for part, size, unseen in zip(masks.inner, masks.reference.shape, masks.unseen_sides, strict=True):
        start, stop, _ = part.indices(size)
        if (unseen[0] and start < before) or (unseen[1] and size - stop < behind):
            raise NeedsMoreSurroundings(
                f"a block sees {start} voxels before and {size - stop} behind itself; expected {before} and {behind}"
            )


def _max_pooled(mask: np.ndarray, kernel: int, strided: bool) -> np.ndarray:
    for axis in range(mask.ndim):
        window = min(kernel, mask.shape[axis])
        width = 1
        while width < window:  # the window of double width is two windows beside each other
            step = min(width, window - width)
            mask = _part(mask, axis, 0, mask.shape[axis] - step) | _part(mask, axis, step, mask.shape[axis])
            width += step
        if strided:
            mask = mask[(slice(None),) * axis + (slice(None, None, window),)]
    return mask


def _cross_dilated(mask: np.ndarray) -> np.ndarray:
    dilated = mask
    for axis in range(mask.ndim):
        dilated = dilated | _dilated(mask, axis)
    return dilated


def _dilated(mask: np.ndarray, axis: int) -> np.ndarray:
    size = mask.shape[axis]
    dilated = mask.copy()
    _part(dilated, axis, 1, size)[...] |= _part(mask, axis, 0, size - 1)
    _part(dilated, axis, 0, size - 1)[...] |= _part(mask, axis, 1, size)
    return dilated


def _part(mask: np.ndarray, axis: int, start: int, stop: int) -> np.ndarray:
    return mask[(slice(None),) * axis + (slice(start, stop),)]


def _cubes(shape: tuple[int, ...]) -> list[Box]:
    """Boxes that divide a volume into equal parts of about `CUBE` voxels a side."""
    boxes: list[Box] = [()]
    for size in shape:
        parts = max(round(size / CUBE), 1)
        edges = [size * part // parts for part in range(parts + 1)]
        boxes = [(*box, slice(start, stop)) for box in boxes for start, stop in zip(edges, edges[1:])]
    return boxes


def _share(part: int, whole: int, *, nothing: float) -> float:
    return part / whole if whole else nothing


_register()
