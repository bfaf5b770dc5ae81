"""Are the objects found? Matching of whole objects by intersection over union, and by the distance of their centroids.

A predicted and a reference object match at a threshold if their intersection over union (IoU) is larger. From 0.5 on an object has at most
one match, so nothing needs to be assigned; no threshold below is offered. An object is seen by its annotated voxels only, and one without
any does not count. Every object weighs the same, however large: these are F1 scores of objects, while Dice is the F1 score of voxels.

Panoptic quality: Kirillov et al., Panoptic Segmentation, CVPR 2019. Average precision as cell segmentation uses the word (Data Science Bowl
2018; StarDist, Schmidt et al., MICCAI 2018): hits over hits, extra and missed objects. It is not the area below a precision-recall curve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nnunet_neuro.contingency import Contingency
from nnunet_neuro.evaluate.measures.registry import Counts, Masks, count_step, measure

# IoU thresholds 0.50, 0.55 ... 0.95 in percent
_THRESHOLDS = tuple(range(50, 100, 5))
_PANOPTIC = "Kirillov et al., Panoptic Segmentation, CVPR 2019"
_DSB = "Caicedo et al., Nature Methods 16:1247, 2019"


def _finish(amounts: Counts) -> dict[str, int | float]:
    """Objects of both sides, matches at each threshold, and the summed IoU of the matches at 0.5."""
    table = amounts["object_overlaps"]
    pairs = table.selected((table.prediction != 0) & (table.reference != 0))
    union = _sizes_of(pairs.prediction, *table.prediction_sizes) + _sizes_of(pairs.reference, *table.reference_sizes) - pairs.voxels
    matched = 2 * pairs.voxels > union
    return {
        "objects_prediction": int(np.count_nonzero(table.prediction_sizes[0])),
        "objects_reference": int(np.count_nonzero(table.reference_sizes[0])),
        # whole numbers, so that an IoU of exactly the threshold is none above it
        **{_matched_at(percent): int(np.count_nonzero(100 * pairs.voxels > percent * union)) for percent in _THRESHOLDS},
        "objects_matched_iou": math.fsum((pairs.voxels[matched] / union[matched]).tolist()),
    }


@count_step(finish=_finish)
def object_counts(masks: Masks) -> dict[str, Contingency]:
    """Annotated voxels of each pair of a predicted and a reference object; in blocks, the ids must hold in the whole volume."""
    return {"object_overlaps": Contingency.of(*masks.objects, masks.annotated)}


@count_step(surroundings="whole")
def centroid_counts(masks: Masks) -> dict[str, int]:
    """Objects by the centroids of their annotated voxels, and how many of both sides can be paired within the tolerance."""
    centroids = [_centroids(ids, masks.annotated, masks.spacing) for ids in masks.objects]
    return {
        "centroids_prediction": len(centroids[0]),
        "centroids_reference": len(centroids[1]),
        "centroids_matched": matched_points(*centroids, tolerance=masks.tolerance),
    }


@measure("object_F1_IoU50", object_counts, reference_empty=0.0, also_called=("recognition quality", "RQ"), source=_PANOPTIC)
def object_f1_50(counts: Counts) -> float:
    """F1 score of objects: twice the matches at IoU 0.5 over all objects of both sides. The same number as the recognition quality.

    Merging two objects or splitting one costs up to three errors. Thin objects lose their match by a shift of one voxel.
    """
    return _f1(counts, 50)


@measure("object_precision_IoU50", object_counts, reference_empty=0.0, source=_DSB)
def object_precision_50(counts: Counts) -> float:
    """Share of the predicted objects that match a reference object at IoU 0.5; low where objects are invented, split or merged."""
    return _precision(counts, 50)


@measure("object_recall_IoU50", object_counts, reference_empty=math.nan, source=_DSB)
def object_recall_50(counts: Counts) -> float:
    """Share of the reference's objects that match a predicted object at IoU 0.5; low where objects are missed, split or merged."""
    return _recall(counts, 50)


@measure("object_F1_IoU75", object_counts, reference_empty=0.0, source=_DSB)
def object_f1_75(counts: Counts) -> float:
    """F1 score of objects at IoU 0.75: as object_F1_IoU50, with shapes that must agree better."""
    return _f1(counts, 75)


@measure("object_precision_IoU75", object_counts, reference_empty=0.0, source=_DSB)
def object_precision_75(counts: Counts) -> float:
    """Share of the predicted objects that match a reference object at IoU 0.75."""
    return _precision(counts, 75)


@measure("object_recall_IoU75", object_counts, reference_empty=math.nan, source=_DSB)
def object_recall_75(counts: Counts) -> float:
    """Share of the reference's objects that match a predicted object at IoU 0.75."""
    return _recall(counts, 75)


@measure("object_F1_mean", object_counts, reference_empty=0.0, source=_DSB)
def object_f1_mean(counts: Counts) -> float:
    """Mean of the F1 scores of objects at the ten IoU thresholds 0.50, 0.55 ... 0.95."""
    return _mean([_f1(counts, percent) for percent in _THRESHOLDS])


@measure("object_AP_IoU50", object_counts, reference_empty=0.0, also_called=("AP50 (StarDist, Cellpose)",), source=_DSB)
def object_ap_50(counts: Counts) -> float:
    """Average precision of cell segmentation at IoU 0.5: matches over matches, extra and missed objects. At most object_F1_IoU50."""
    return _average_precision(counts, 50)


@measure("object_AP_IoU75", object_counts, reference_empty=0.0, also_called=("AP75 (StarDist, Cellpose)",), source=_DSB)
def object_ap_75(counts: Counts) -> float:
    """Average precision of cell segmentation at IoU 0.75."""
    return _average_precision(counts, 75)


@measure("object_AP_mean", object_counts, reference_empty=0.0, also_called=("mean average precision of DSB 2018",), source=_DSB)
def object_ap_mean(counts: Counts) -> float:
    """Mean of the average precisions at the ten IoU thresholds 0.50, 0.55 ... 0.95, by which the Data Science Bowl 2018 ranked."""
    return _mean([_average_precision(counts, percent) for percent in _THRESHOLDS])


@measure("panoptic_quality", object_counts, reference_empty=0.0, also_called=("PQ",), source=_PANOPTIC)
def panoptic_quality(counts: Counts) -> float:
    """Are objects found, and how well? Segmentation quality times recognition quality (object_F1_IoU50)."""
    return 2 * counts["objects_matched_iou"] / _all_objects(counts) if _all_objects(counts) else math.nan


@measure("segmentation_quality", object_counts, reference_empty=0.0, also_called=("SQ",), source=_PANOPTIC)
def segmentation_quality(counts: Counts) -> float:
    """Mean IoU of the objects that match at IoU 0.5, so above 0.5; 0 where nothing matches. It does not see missed and extra objects."""
    return counts["objects_matched_iou"] / counts[_matched_at(50)] if counts[_matched_at(50)] else 0.0


@measure("object_number_ratio", object_counts, higher_is_better=None, limits=(0.0, math.inf), reference_empty=math.nan)
def object_number_ratio(counts: Counts) -> float:
    """Predicted objects over reference objects: above 1 where objects are invented or split, below where they are missed or merged.

    1 says that the numbers are equal, not that the objects are right.
    """
    return counts["objects_prediction"] / counts["objects_reference"] if counts["objects_reference"] else math.nan


@measure("detection_F1", centroid_counts, reference_empty=0.0)
def detection_f1(counts: Counts) -> float:
    """Are the objects found, whatever their shape? F1 score of objects whose centroids lie within the tolerance of each other.

    Each object has at most one partner; as many pairs are made as possible.
    """
    objects = counts["centroids_prediction"] + counts["centroids_reference"]
    return 2 * counts["centroids_matched"] / objects if objects else math.nan


@measure("detection_precision", centroid_counts, reference_empty=0.0)
def detection_precision(counts: Counts) -> float:
    """Share of the predicted objects with a partner in the reference, centroid within the tolerance of centroid."""
    return counts["centroids_matched"] / counts["centroids_prediction"] if counts["centroids_prediction"] else 0.0


@measure("detection_recall", centroid_counts, reference_empty=math.nan)
def detection_recall(counts: Counts) -> float:
    """Share of the reference's objects with a partner in the prediction, centroid within the tolerance of centroid."""
    return counts["centroids_matched"] / counts["centroids_reference"] if counts["centroids_reference"] else math.nan


def matched_points(first: np.ndarray, second: np.ndarray, *, tolerance: float) -> int:
    """The largest number of pairs of a point of each set, at most `tolerance` apart, in which no point occurs twice.

    Args:
        first: (n, axes) positions.
        second: (m, axes) positions, in the same unit.
        tolerance: in that unit.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching
    from scipy.spatial import cKDTree

    if not len(first) or not len(second):
        return 0
    # a tolerance of two voxels must hold at a distance of two voxels, however their size was rounded
    near = cKDTree(first).query_ball_tree(cKDTree(second), tolerance * (1 + 1e-6))
    rows = np.repeat(np.arange(len(first)), list(map(len, near)))
    columns = np.fromiter((column for row in near for column in row), np.int64, len(rows))
    graph = csr_array((np.ones(len(rows), bool), (rows, columns)), shape=(len(first), len(second)))
    return int(np.count_nonzero(maximum_bipartite_matching(graph) >= 0))


def _centroids(ids: np.ndarray, annotated: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """(n, axes) mean position of the annotated voxels of each object, in the unit of the spacing."""
    voxels = np.nonzero((ids != 0) & annotated)
    _, objects = np.unique(ids[voxels], return_inverse=True)
    sizes = np.bincount(objects)
    return np.stack([np.bincount(objects, along) / sizes * size for along, size in zip(voxels, spacing, strict=True)], axis=1)


def _sizes_of(ids: np.ndarray, known: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    return voxels[np.searchsorted(known, ids)]


def _matched_at(percent: int) -> str:
    return f"objects_matched_IoU{percent}"


def _all_objects(counts: Counts) -> int:
    return counts["objects_prediction"] + counts["objects_reference"]


def _f1(counts: Counts, percent: int) -> float:
    return 2 * counts[_matched_at(percent)] / _all_objects(counts) if _all_objects(counts) else math.nan


def _precision(counts: Counts, percent: int) -> float:
    return counts[_matched_at(percent)] / counts["objects_prediction"] if counts["objects_prediction"] else 0.0


def _recall(counts: Counts, percent: int) -> float:
    return counts[_matched_at(percent)] / counts["objects_reference"] if counts["objects_reference"] else math.nan


def _average_precision(counts: Counts, percent: int) -> float:
    hits = counts[_matched_at(percent)]
    return hits / (_all_objects(counts) - hits) if _all_objects(counts) else math.nan


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
