"""`nnneuro_views`: 2D networks on axial, coronal and sagittal slices, and the fusion of the three."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from nnunet_neuro.commands._run import one_sentence_errors
from nnunet_neuro.views.scheme import VIEWS


@one_sentence_errors("nnneuro_views")
def main(argv: list[str] | None = None) -> None:
    """Parse and run one of train, predict and ablate."""
    options = _parser().parse_args(argv)
    options.run(options)


def _train(options: argparse.Namespace) -> None:
    from nnunet_neuro.views.training import train_views

    for model in train_views(options.dataset, views=options.views, folds=options.folds, trainer=options.trainer,
                             device=_device(options.device), gpu_memory=options.gpu_memory, say=_say):
        print(model.folder)


def _predict(options: argparse.Namespace) -> None:
    from nnunet_neuro.views.prediction import predict_views

    for path in predict_views(options.images, options.output, options.dataset, views=options.views, folds=options.folds,
                              trainer=options.trainer, method=options.fuse, device=_device(options.device), keep_views=options.keep_views,
                              say=_say):
        print(path)


def _ablate(options: argparse.Namespace) -> None:
    from nnunet_neuro.views.ablation import ablate_views

    _, files = ablate_views(options.dataset, views=options.views, folds=options.folds, trainer=options.trainer, out=options.out)
    print(next(path for path in files if path.suffix == ".md").read_text(encoding="utf-8"))
    for path in files:
        print(path)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _device(wanted: str) -> str:
    from nnunet_neuro.quickstart import pick_device

    return pick_device() if wanted == "auto" else wanted


def _parser() -> argparse.ArgumentParser:
    from nnunet_neuro.views.fusion import METHODS

    parser = argparse.ArgumentParser(
        prog="nnneuro_views", description="The three-view scheme: a 2D network each for axial, coronal and sagittal slices of volumes, and "
        "the fusion of what they predict. Every command of nnU-Net that runs is printed; running the same command again continues.")
    words = parser.add_subparsers(required=True, metavar="COMMAND")

    train = words.add_parser("train", help="plan, preprocess and train the views", description="Plan, preprocess and train the views; the "
                             "results are nnU-Net models with the plans nnUNetPlansAxial, nnUNetPlansCoronal, nnUNetPlansSagittal.")
    train.add_argument("dataset", metavar="DATASET", help="id or name of a raw dataset of volumes")
    _add_shared(train, folds="folds to train, or all (default: those of the dataset, usually 0 to 4)")
    _add_device(train)
    train.add_argument("--gpu-memory", type=_gigabytes, metavar="GB", help="what patch and batch are planned for; less, such as 0.1, "
                       "for training without a GPU (default: 8)")
    train.set_defaults(run=_train)

    predict = words.add_parser("predict", help="predict by each view and fuse", description="Predict volumes by each view and fuse them.")
    predict.add_argument("-i", "--images", required=True, type=Path, metavar="FOLDER", help="images, CASE_0000 and so on")
    predict.add_argument("-o", "--output", required=True, type=Path, metavar="FOLDER", help="folder for the fused segmentations")
    predict.add_argument("-d", "--dataset", required=True, metavar="DATASET", help="id or name the views were trained on")
    _add_shared(predict, folds="folds whose networks are averaged (default: all that are trained in every view)")
    _add_device(predict)
    predict.add_argument("--fuse", default="mean", metavar="FUSION",
                         help=f"{'; '.join(f'{name}: {what}' for name, what in METHODS.items())} (default: %(default)s)")
    predict.add_argument("--keep-views", action="store_true", help="leave each view's segmentations and probabilities in FOLDER/views, "
                         "from which another --fuse is made without predicting again")
    predict.set_defaults(run=_predict)

    ablate = words.add_parser("ablate", help="what each view contributes", description="Dice of each view, each pair and all, by each "
                              "fusion, on the validation cases of the trained folds; prints a table and writes every measure per case.")
    ablate.add_argument("dataset", metavar="DATASET", help="id or name the views were trained on")
    _add_shared(ablate, folds="folds whose validation cases count (default: all that are trained in every view)")
    ablate.add_argument("--out", type=Path, metavar="FOLDER", help="for ablation.csv and ablation.md (default: views/TRAINER in the "
                        "dataset's results)")
    ablate.set_defaults(run=_ablate)
    return parser


def _add_shared(parser: argparse.ArgumentParser, *, folds: str) -> None:
    parser.add_argument("-tr", "--trainer", default="nnUNetTrainer", metavar="TRAINER", help="(default: %(default)s)")
    parser.add_argument("-f", "--folds", nargs="+", metavar="FOLD", help=folds)
    parser.add_argument("--views", nargs="+", default=list(VIEWS), metavar="VIEW", help=f"of {', '.join(VIEWS)} (default: all)")


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-device", "--device", choices=("auto", "cuda", "mps", "cpu"), default="auto",
                        help="auto takes a GPU where there is one (default: %(default)s)")


def _gigabytes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of gigabytes; expected one above 0, such as 0.5")
    return value
