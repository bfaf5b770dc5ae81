"""Which images a model was trained on, told by the hashes that the converters write into dataset.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# of dataset.json of a model that ships, which has no provenance
SEEN = "seen_images"


def seen_images(dataset_json: Mapping[str, Any], folds: Iterable[Path] = ()) -> frozenset[str]:
    """What identifies each image that a model was trained on.

    Args:
        dataset_json: of the model.
        folds: nnU-Net's folders of its folds. Cases that all of them validated were in no training; `fold_all` validates what it trains on.

    Returns:
        For each, the SHA-256 of its first source file, and the place in it where the case is a part; empty where the dataset does not say.
    """
    if SEEN in dataset_json:
        return frozenset(dataset_json[SEEN])
    validated = [set() if fold.name == "fold_all" else
                 {path.name.removesuffix(dataset_json["file_ending"]) for path in (fold / "validation").glob("*")} for fold in folds]
    images = _images(dataset_json, ("train",))
    held_out = set.intersection(*validated) if validated else set()
    return frozenset(image for case, image in images.items() if case not in held_out)


def seen_cases(seen: frozenset[str], dataset_json: Mapping[str, Any]) -> tuple[list[str], int]:
    """The cases for training and validation of a dataset whose image is one of these, in order, and how many there are in all."""
    images = _images(dataset_json, ("train", "val"))
    return sorted(case for case, image in images.items() if image in seen), len(images)


def _images(dataset_json: Mapping[str, Any], splits: Sequence[str]) -> dict[str, str]:
    """Case -> its image; nothing for a dataset of another program."""
    provenance = dataset_json.get("provenance")
    cases = provenance.get("cases", {}) if isinstance(provenance, Mapping) else {}
    return {name: f"{case['sources'][0]['sha256']}{(case.get('places') or [''])[0]}" for name, case in cases.items()
            if case.get("split") in splits and case.get("sources")}
