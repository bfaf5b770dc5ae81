"""Cross-validation folds in which no group of cases is torn apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

Split = dict[str, list[str]]


def grouped_folds(group_of: Mapping[str, str], *, folds: int = 5) -> list[Split]:
    """Folds for nnU-Net's `splits_final.json`; every case is validated once, and no group is in two validation sets.

    scikit-learn's GroupKFold evens out the number of cases per fold and draws nothing, so the same cases give the same folds.

    Args:
        group_of: group of each case identifier; cases of one group show the same tissue.
        folds: number of folds wanted; never more than there are groups.

    Returns:
        One `{"train": [...], "val": [...]}` per fold with sorted identifiers; empty if all cases are of one group, because then no
        validation case would be independent of training.
    """
    from sklearn.model_selection import GroupKFold

    identifiers = sorted(group_of)
    groups = [group_of[identifier] for identifier in identifiers]
    folds = min(folds, len(set(groups)))
    if folds < 2:
        return []
    return [
        {"train": [identifiers[i] for i in train], "val": [identifiers[i] for i in val]}
        for train, val in GroupKFold(folds).split(identifiers, groups=groups)
    ]


def fixed_split(split_of: Mapping[str, str], group_of: Mapping[str, str]) -> list[Split]:
    """The one split that a source defines itself.

    Args:
        split_of: "train" or "val" for each case identifier.
        group_of: group of each case identifier.

    Raises:
        ValueError: a group is in both parts.
    """
    parts = {part: sorted(i for i, s in split_of.items() if s == part) for part in ("train", "val")}
    shared = {group_of[i] for i in parts["train"]} & {group_of[i] for i in parts["val"]}
    if shared:
        name = min(shared)
        counts = Counter(split_of[i] for i in split_of if group_of[i] == name)
        raise ValueError(f"group {name!r} has {counts['train']} training and {counts['val']} validation cases; "
                         "a group must be in one part only")
    return [parts]
