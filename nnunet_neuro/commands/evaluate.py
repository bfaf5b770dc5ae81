"""`nnneuro_evaluate`: how good predictions are."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nnunet_neuro.commands._run import one_sentence_errors


@one_sentence_errors("nnneuro_evaluate")
def main(argv: list[str] | None = None) -> int:
    """Measure predictions and write the scores and the report."""
    options = _parser().parse_args(argv)

    from nnunet_neuro.evaluate.run import evaluate_folders
    from nnunet_neuro.evaluate.summary import summary_text

    evaluation = evaluate_folders(
        options.predictions,
        options.references,
        out=options.out or options.predictions / "evaluation",
        images=options.images,
        training=options.training,
        dataset_json=options.dataset_json,
        tolerance=options.tolerance,
        only_predicted=options.only_predicted,
    )
    print(summary_text(evaluation), file=sys.stderr)
    for path in evaluation.files:
        print(path)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnneuro_evaluate",
        description="Measure how good predictions are: Dice, IoU, precision, recall and clDice per case, per class and "
        "pooled. "
        "Writes scores.json, scores.csv and report.html, one page that opens in any browser. Voxels with nnU-Net's "
        "ignore label "
        "count nowhere.",
    )
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="folder of predicted segmentations")
    parser.add_argument(
        "references",
        type=Path,
        metavar="REFERENCES",
        help="folder of label volumes with the same names, such as labelsTs",
    )
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="nnU-Net image folder (CASE_0000.tif) to show in the report")
    parser.add_argument(
        "--training",
        type=Path,
        metavar="FOLDER",
        help="nnU-Net results folder TRAINER__PLANS__CONFIGURATION; the report shows the training curve of each fold",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for the results (default: the folder evaluation inside PREDICTIONS)",
    )
    parser.add_argument(
        "--tolerance",
        type=int,
        default=2,
        metavar="N",
        help="voxels by which a skeleton may lie beside the other mask in the tolerant measures (default: %(default)s)",
    )
    parser.add_argument(
        "--dataset-json",
        type=Path,
        metavar="FILE",
        help="names of the labels (default: dataset.json in PREDICTIONS or beside REFERENCES)",
    )
    parser.add_argument(
        "--only-predicted",
        action="store_true",
        help="leave out references without prediction, as for the validation folder of one fold; otherwise they are an error",
    )
    return parser
