"""Training curves from the logs that nnU-Net writes into `fold_*/training_log_*.txt`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

_EPOCH = re.compile(r"(?:^|: )Epoch (\d+)\s*$")
_LOSS = re.compile(r"(?:^|: )(train_loss|val_loss) (\S+)")
_PSEUDO_DICE = re.compile(r"(?:^|: )Pseudo dice \[(.*)\]")
# numpy 2 prints np.float32(0.5), numpy 1 prints 0.5: the 32 follows a letter and is no value
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|nan|inf)(?![\w(])")


@dataclass
class Epoch:
    """What one finished epoch logged; the pseudo Dice has one value per class, estimated on validation patches."""

    train_loss: float = math.nan
    val_loss: float = math.nan
    pseudo_dice: list[float] = field(default_factory=list)

    @property
    def mean_pseudo_dice(self) -> float:
        """Mean over the classes that occurred, NaN if none did."""
        known = [value for value in self.pseudo_dice if not math.isnan(value)]
        return sum(known) / len(known) if known else math.nan


def read_training(folder: str | Path) -> dict[str, dict[int, Epoch]]:
    """Read the curves of all folds of a trained model.

    Args:
        folder: nnU-Net results folder `TRAINER__PLANS__CONFIGURATION`, or one `fold_*` of it.

    Returns:
        Fold name to epoch number to its values, both sorted.

    Raises:
        FileNotFoundError: no such folder, or no fold with a log.
        ValueError: logs without one finished epoch.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no training folder {folder}; expected a results folder TRAINER__PLANS__CONFIGURATION")
    folds = [folder] if folder.name.startswith("fold_") else sorted(folder.glob("fold_*"))
    logs = {fold.name: sorted(fold.glob("training_log_*.txt"), key=_time_in_name) for fold in folds}
    if not any(logs.values()):
        raise FileNotFoundError(
            f"no training log in {folder}; expected fold_*/training_log_*.txt of an nnU-Net results folder "
            "TRAINER__PLANS__CONFIGURATION"
        )
    curves = {fold: merge_logs([_read(path) for path in paths]) for fold, paths in logs.items()}
    if not any(curves.values()):
        raise ValueError(f"the training logs in {folder} hold no finished epoch; expected at least one: train first")
    return {fold: epochs for fold, epochs in curves.items() if epochs}


def merge_logs(texts: list[str]) -> dict[int, Epoch]:
    """One curve from the logs of a training and of its continuations, oldest first.

    A continuation starts at its checkpoint's epoch; what an earlier log says about that epoch and later ones was thrown
    away by nnU-Net and is dropped here too.
    """
    merged: dict[int, Epoch] = {}
    for text in texts:
        epochs = parse_log(text)
        if epochs:
            first = min(epochs)
            merged = {number: epoch for number, epoch in merged.items() if number < first} | epochs
    return dict(sorted(merged.items()))


def parse_log(text: str) -> dict[int, Epoch]:
    """The finished epochs of one log; an epoch without pseudo Dice line was interrupted and is left out."""
    epochs: dict[int, Epoch] = {}
    number, epoch = None, Epoch()
    for line in text.splitlines():
        if match := _EPOCH.search(line):
            number, epoch = int(match.group(1)), Epoch()
        elif match := _LOSS.search(line):
            setattr(epoch, match.group(1), _as_number(match.group(2)))
        elif (match := _PSEUDO_DICE.search(line)) and number is not None:
            epoch.pseudo_dice = [float(value) for value in _NUMBER.findall(match.group(1))]
            epochs[number] = epoch
    return epochs


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")  # a crash can cut a line within a character


def _time_in_name(path: Path) -> list[int]:
    """training_log_2024_5_13_09_08_01: months and days are not padded, so names do not sort by time."""
    return [int(number) for number in re.findall(r"\d+", path.stem)]


def _as_number(text: str) -> float:
    found = _NUMBER.search(text)
    return float(found.group()) if found else math.nan
