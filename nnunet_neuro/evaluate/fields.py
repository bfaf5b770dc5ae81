"""What each field of use measures by default, and which of it the terminal shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from nnunet_neuro.evaluate.measures import MEASURES, Measure, families, selected

_CALIBRATION = "calibration"


@dataclass(frozen=True)
class FieldOfUse:
    """One kind of structure.

    Attributes:
        description: in a few words.
        families: the modules of `measures` that say something about it.
        headlines: the measures of the table in the terminal, the most telling one first.
    """

    description: str
    families: tuple[str, ...]
    headlines: tuple[str, ...]


FIELDS: dict[str, FieldOfUse] = {
    "axons": FieldOfUse("thin lines that are followed", ("overlap", "centrelines", "axons", "maxpooled"),
                        ("clDice_tolerant", "clPrecision_tolerant", "clRecall_tolerant", "missed_length_share", "extra_length_share",
                         "breaks_per_length", "false_merges_per_length", "Dice")),
    "membranes": FieldOfUse("sheets that separate objects", ("overlap", "surfaces", "boundaries"),
                            ("Rand_F_thinned_2D", "Info_F_thinned_2D", "Rand_F_thinned", "Info_F_thinned", "VOI_split_thinned",
                             "VOI_merge_thinned", "Dice", "NSD")),
    "cells": FieldOfUse("objects that are counted and told apart", ("overlap", "surfaces", "objects", "partition"),
                        ("object_F1_IoU50", "object_AP_mean", "panoptic_quality", "VOI_split", "VOI_merge", "adapted_Rand_error", "Dice")),
    "regions": FieldOfUse("few large structures", ("overlap", "surfaces"), ("Dice", "NSD", "HD95", "ASSD", "volume_similarity")),
}
DEFAULT = FieldOfUse("any structure", ("overlap", "centrelines", "surfaces"),
                     ("Dice", "IoU", "precision", "recall", "clDice", "clDice_tolerant", "NSD", "HD95"))


def measures_for(words: Sequence[str] = (), *, field: str | None = None, probabilities: bool = False) -> dict[str, Measure]:
    """The measures to be made.

    Args:
        words: families and measures by name; what is asked for by name alone decides.
        field: a key of `FIELDS`; None for `DEFAULT`.
        probabilities: whether there are any; calibration is then measured too.

    Raises:
        ValueError: an unknown word or field, or a measure that needs probabilities where there are none.
    """
    if field is not None and field not in FIELDS:
        raise ValueError(f"there is no field of use {field!r}; expected one of {', '.join(FIELDS)}")
    _refuse_unknown(words)
    usual = (FIELDS[field] if field else DEFAULT).families
    chosen = selected([*(words or usual), *([_CALIBRATION] if probabilities else [])])
    lacking = [name for name, one in chosen.items() if "probability" in one.counts.needs and not probabilities]
    if lacking:
        raise ValueError(f"{', '.join(lacking[:3])} cannot be measured without the probabilities of the model; give them with "
                         "--probabilities")
    return chosen


def without_surfaces(measured: Mapping[str, Measure]) -> tuple[dict[str, Measure], dict[str, str]]:
    """The measures without those of surfaces, and the reason for each that was left out: for references with an ignore label.

    A border towards ignored voxels is no surface, and where the rim of every structure is ignored, as in TRAILMAP's labels, only chance
    pieces of the surfaces remain.
    """
    reason = "the references have an ignore label, which often lies along the borders; ask for them with --measures"
    left_out = {name: reason for name, one in measured.items() if one.family == "surfaces"}
    return {name: one for name, one in measured.items() if name not in left_out}, left_out


def headlines(measured: Mapping[str, Measure], field: str | None = None) -> list[str]:
    """Those of the measures that the field is judged by; all of them where they are others."""
    found = [name for name in (FIELDS[field] if field else DEFAULT).headlines if name in measured]
    return found or list(measured)


def _refuse_unknown(words: Sequence[str]) -> None:
    """The measures are too many for a sentence: families, and what is spelled alike."""
    for word in words:
        if word not in MEASURES and word not in families():
            alike = get_close_matches(word, MEASURES, 3)
            raise ValueError(f"there is no measure or family {word!r}; expected families ({', '.join(families())}) or measures"
                             + (f" such as {', '.join(alike)}" if alike else "; a family stands for all of its measures"))
