"""Train a model on with a dataset of yours: plans, preprocessing, weights and training in one go.

Other channels, classes, voxel sizes and patches are fitted, and reported layer by layer. Every plain command of nnU-Net is printed before
it runs; the same command again continues. NNNEURO_LEARNING_RATE, NNNEURO_PATIENCE (epochs without a gain before the training ends, 0 for
never), NNNEURO_ITERATIONS and NNNEURO_SEED count as in every training.
"""

from __future__ import annotations

import argparse
import re
import sys

from nnunet_neuro.options import parse_spacing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this command."""
    parser.add_argument("model", metavar="MODEL", help="a name that nnneuro_models list shows, a folder TRAINER__PLANS__CONFIGURATION, or "
                        "a checkpoint")
    parser.add_argument("-d", "--dataset", required=True, metavar="DATASET", help="id or name of a raw dataset to train on")
    parser.add_argument("-c", "--configuration", metavar="NAME", help="of the model's plans (default: the trained one)")
    parser.add_argument("-f", "--fold", default="0", metavar="FOLD", help="number, or all (default: %(default)s)")
    parser.add_argument("-tr", "--trainer", metavar="TRAINER", help="default: nnUNetTrainerFineTune, or nnUNetTrainerFineTuneSingleOutput "
                        "for networks without deep supervision; nnUNetTrainerFineTuneFrozenEncoder suits very few cases")
    parser.add_argument("--epochs", type=_positive, metavar="N", help="at most (default: 100, or the trainer's own number)")
    parser.add_argument("-device", "--device", choices=("auto", "cuda", "mps", "cpu"), default="auto",
                        help="auto takes a GPU where there is one (default: %(default)s)")
    parser.add_argument("-p", "--plans-name", metavar="NAME", help="of the new plans (default: PLANSFromMODEL)")
    parser.add_argument("--spacing", type=parse_spacing, metavar="Z,Y,X", help="voxel size that images are resampled to (default: the "
                        "model's)")
    parser.add_argument("--patch", type=_patch, metavar="Z,Y,X", help="in voxels, in the order of the plans; two numbers for 2D (default: "
                        "the model's)")


def run(options: argparse.Namespace) -> int:
    """Prepare and train; prints the folder of the trained fold."""
    from nnunet_neuro.models.finetune import FineTuning, finetune
    from nnunet_neuro.models.pretrained import load_pretrained
    from nnunet_neuro.quickstart import pick_device

    if options.fold != "all" and not options.fold.isdecimal():
        raise ValueError(f"the fold is {options.fold!r}; expected a number, or all")
    device = pick_device() if options.device == "auto" else options.device
    wanted = FineTuning(options.dataset, device, options.configuration, options.fold, options.trainer, options.epochs, options.plans_name,
                        options.spacing, options.patch)
    print(finetune(load_pretrained(options.model), wanted, say=_say))
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of epochs; expected a whole number above 0")
    return int(text)


def _patch(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d{1,5}(,\d{1,5}){1,2}", text) or "0" in text.split(","):
        raise argparse.ArgumentTypeError(f"{text!r} is no patch; expected two or three whole numbers such as 32,64,64")
    return tuple(map(int, text.split(",")))
