"""Scores of a model card: pooled Dice and IoU with intervals, from a few volumes that were in no training.

    python benchmarks/zoo_scores.py PREDICTIONS REFERENCES --tile 1,30,30 --stock PREDICTIONS_OF_STOCK_NNUNET

Where there are many cases, nnneuro_compare draws cases. Where there is one volume, this draws tiles of it, which tells how much of a score
hangs on where one looks, and nothing about other animals. Prints the `scores` of an entry of models.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import product
from pathlib import Path

import numpy as np

from nnunet_neuro.evaluate.comparison.statistics import RESAMPLES, bootstrap_interval
from nnunet_neuro.evaluate.label_names import LabelNames, read_label_names
from nnunet_neuro.evaluate.pairing import pair_cases


def main(argv: list[str] | None = None) -> int:
    """Count, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", type=Path)
    parser.add_argument("references", type=Path, help="labelsTr or labelsTs of a raw dataset")
    parser.add_argument("--stock", type=Path, metavar="PREDICTIONS", help="of nnU-Net's default trainer at equal budget")
    parser.add_argument("--tile", type=_tile, required=True, metavar="Z,Y,X", help="voxels that are drawn together")
    options = parser.parse_args(argv)
    labels = read_label_names(options.references.parent / "dataset.json")
    ours = tile_counts(options.predictions, options.references, labels, options.tile)
    stock = tile_counts(options.stock, options.references, labels, options.tile) if options.stock else {}
    print(json.dumps([{"measure": measure, "label": name, "value": score(ours[name], measure),
                       **({"stock": score(stock[name], measure)} if stock else {})}
                      for measure, name in product(("Dice", "IoU"), ours)], indent=1))
    used = max(len(counts) for counts in ours.values())
    print(f"95 %, bootstrap over {used} tiles of {' x '.join(map(str, options.tile))} voxels, {RESAMPLES} draws", file=sys.stderr)
    return 0


def tile_counts(predictions: Path, references: Path, labels: LabelNames, tile: tuple[int, ...]) -> dict[str, np.ndarray]:
    """For each class, (tiles, 3) voxels in both, predicted and annotated; tiles without any of them are left out."""
    counts: dict[str, list[list[int]]] = {name: [] for name in labels.classes}
    for pair in pair_cases(predictions, references, only_predicted=True).pairs:
        found, truth = pair.prediction.read(), pair.reference.read()
        counted = np.ones(truth.shape, bool) if labels.ignore is None else truth != labels.ignore
        for start in product(*(range(0, size, step) for size, step in zip(truth.shape, tile))):
            place = tuple(slice(first, first + step) for first, step in zip(start, tile))
            for name in labels.classes:
                one, other = (np.isin(volume[place], labels.values_of(name)) & counted[place] for volume in (found, truth))
                counts[name].append([int((one & other).sum()), int(one.sum()), int(other.sum())])
    return {name: np.array([row for row in rows if any(row)]).reshape(-1, 3) for name, rows in counts.items()}


def score(counts: np.ndarray, measure: str) -> list[float]:
    """Pooled over the tiles, and the ends of the interval."""
    both, predicted, annotated = counts.T.astype(float)
    sums, sizes = (2 * both, predicted + annotated) if measure == "Dice" else (both, predicted + annotated - both)
    return [round(float(value), 3) for value in (sums.sum() / sizes.sum(), *bootstrap_interval(sums, sizes))]


def _tile(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


if __name__ == "__main__":
    sys.exit(main())
