"""`nnneuro_evaluate`: how good predictions are."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_neuro.commands._run import one_sentence_errors
from nnunet_neuro.commands.predict import parse_memory


@one_sentence_errors("nnneuro_evaluate")
def main(argv: list[str] | None = None) -> int:
    """Measure predictions and write the scores and the report."""
    options = _parser().parse_args(argv)

    from nnunet_neuro.evaluate.run import Choice, evaluate_folders
    from nnunet_neuro.evaluate.summary import summary_text

    evaluation = evaluate_folders(
        options.predictions,
        options.references,
        out=options.out or _default_out(options.predictions),
        images=options.images,
        training=options.training,
        dataset_json=options.dataset_json,
        tolerance=options.tolerance,
        only_predicted=options.only_predicted,
        probabilities=options.probabilities,
        choice=Choice(options.measures, options.field, options.classes, _regions(options.regions or ()), options.instances, options.workers,
                      options.memory),
        slices=options.slices,
        missing_are_zero=options.missing_chunks == "zero",
        formats=options.format,
    )
    print(summary_text(evaluation), file=sys.stderr)
    for path in evaluation.files:
        print(path)
    return 0


def parse_words(text: str) -> tuple[str, ...]:
    """`axon,soma` as words.

    Raises:
        ArgumentTypeError: an empty word.
    """
    words = tuple(word.strip() for word in text.split(","))
    if not all(words):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty word; expected words with commas between, such as axon,soma")
    return words


def parse_region(text: str) -> tuple[str, tuple[str, ...]]:
    """`whole=1+2` or `whole=core+edge` as a name and its parts.

    Raises:
        ArgumentTypeError: not of that form.
    """
    name, equals, parts = text.partition("=")
    words = tuple(word.strip() for word in parts.split("+"))
    if not name.strip() or not equals or not all(words):
        raise argparse.ArgumentTypeError(f"{text!r} is no region; expected NAME=LABEL+LABEL, such as whole=1+2")
    return name.strip(), words


def path_or_address(text: str) -> Path | str:
    """A path; an address such as bossdb://... stays as it is, because a path would lose one of its slashes."""
    return text if "://" in text else Path(text)


def _regions(given: Sequence[tuple[str, tuple[str, ...]]]) -> dict[str, tuple[str, ...]]:
    names = [name for name, _ in given]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"the region {twice!r} is given twice; expected one --regions {twice}=... with all of its labels")
    return dict(given)


def _default_out(predictions: Path | str) -> Path:
    """Inside a folder of cases; beside a volume, or here where that lies behind an address."""
    from nnunet_neuro.evaluate.pairing import is_volume

    if "://" in str(predictions):
        return Path("evaluation")
    path = Path(predictions)
    return path.with_name(f"{path.name}.evaluation") if is_volume(path) else path / "evaluation"


def _parser() -> argparse.ArgumentParser:
    from nnunet_neuro.evaluate.fields import FIELDS

    parser = argparse.ArgumentParser(
        prog="nnneuro_evaluate",
        description="Measure how good predictions are, per case, as a mean over cases and pooled. Writes scores.json, scores.csv and "
        "report.html, one page that opens in any browser. Voxels with nnU-Net's ignore label count nowhere. Volumes larger than the memory "
        "are measured block by block, with the same numbers.")
    compared = parser.add_argument_group("what is compared")
    compared.add_argument("predictions", type=path_or_address, metavar="PREDICTIONS", help="folder of predicted segmentations; or one "
                          "volume, as nnneuro_predict reads or writes it; or an nnU-Net results folder TRAINER__PLANS__CONFIGURATION: the "
                          "validation cases of its folds")
    compared.add_argument("references", type=path_or_address, nargs="?", metavar="REFERENCES", help="folder of label volumes with the same "
                          "names, such as labelsTs; or one volume; left out for a results folder")
    compared.add_argument("--images", type=path_or_address, metavar="FOLDER", help="nnU-Net image folder (CASE_0000.tif), or the raw "
                          "volume, to show in the report")
    compared.add_argument("--dataset-json", type=Path, metavar="FILE", help="names of the labels (default: dataset.json in PREDICTIONS or "
                          "beside REFERENCES)")
    compared.add_argument("--only-predicted", action="store_true", help="leave out references without prediction, as for the validation "
                          "folder of one fold; otherwise they are an error")
    compared.add_argument("--instances", action="store_true", help="the files hold ids of objects, not labels")
    compared.add_argument("--slices", action="store_true", help="both folders hold the slices of one volume, not cases")
    compared.add_argument("--missing-chunks", choices=("error", "zero"), default="error",
                          help="chunks that are not there in Zarr, N5, HDF5 and precomputed labels: refuse them, or take them for "
                          "background (default: %(default)s)")
    compared.add_argument("--probabilities", type=path_or_address, nargs="?", const=True, metavar="FOLDER", help="what nnUNetv2_predict "
                          "--save_probabilities wrote, or volumes with a channel per label: adds the calibration; no FOLDER for a results "
                          "folder that has them")
    measured = parser.add_argument_group("what is measured")
    measured.add_argument("--for", dest="field", choices=FIELDS, help="the measures of a field of use: "
                          + "; ".join(f"{name}, {one.description}" for name, one in FIELDS.items()))
    measured.add_argument("--measures", type=parse_words, default=(), metavar="WORDS", help="families and measures by name, with commas "
                          "between, in place of --for (default: overlap,centrelines,surfaces)")
    measured.add_argument("--tolerance", type=float, metavar="LENGTH", help="of the tolerant measures, in the unit of the voxel size "
                          "(default: two voxels)")
    measured.add_argument("--classes", type=parse_words, default=(), metavar="NAMES", help="only these, with commas between")
    measured.add_argument("--regions", type=parse_region, action="extend", nargs="+", metavar="NAME=1+2", help="labels that are also "
                          "measured as one")
    how = parser.add_argument_group("how")
    how.add_argument("--workers", type=int, default=1, metavar="N", help="processes, one case each (default: %(default)s)")
    how.add_argument("--memory", type=parse_memory, metavar="4G", help="for all workers together; larger volumes go by blocks (default: "
                     "60 %% of what is free)")
    made = parser.add_argument_group("what is made")
    made.add_argument("--out", type=Path, metavar="DIR", help="folder for the results (default: the folder evaluation inside PREDICTIONS, "
                      "or NAME.evaluation beside a volume)")
    made.add_argument("--format", type=parse_words, default=("json", "csv", "html"), metavar="WORDS", help="some of json,csv,html "
                      "(default: all)")
    made.add_argument("--training", type=Path, metavar="FOLDER", help="nnU-Net results folder TRAINER__PLANS__CONFIGURATION; the report "
                      "shows the training curve of each fold")
    return parser
