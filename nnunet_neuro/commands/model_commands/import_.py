"""make an nnU-Net v2 model of a network that an older system trained

dlmbmap     model_final_checkpoint.model of D-LMBmap or nnU-Net v1 with its pickle, of the stock or the axial trainer
state-dict  the bare .pth that D-LMBmap's save_model.py makes of one
mtneuro     .pt of MTNeuro's pixel segmentation: its U-Net in 2D and 3D, or one of segmentation-models-pytorch
kasthuri    .pt of the Kasthuri challenge's plain or deeper U-Net
thalamus    .ckpt of one view of the thalamus benchmark

Nothing that a file asks for is run. A table says where each weight went; none is left over on either side. After it nnUNetv2_predict and
nnneuro_predict work with the model.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nnunet_neuro.views.scheme import VIEWS

KINDS = ("dlmbmap", "state-dict", "mtneuro", "kasthuri", "thalamus")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this command."""
    parser.add_argument("file", type=Path, metavar="FILE", help="the trained network")
    parser.add_argument("--kind", required=True, choices=KINDS, help="see above")
    parser.add_argument("--pickle", type=Path, metavar="FILE.pkl", help="nnU-Net v1's plans, for dlmbmap (default: FILE.pkl beside FILE) "
                        "and state-dict (default: D-LMBmap's usual plan)")
    parser.add_argument("-d", dest="dataset_id", type=int, metavar="ID", help="number of the new model's dataset (default: the first free "
                        "one from 900 on)")
    parser.add_argument("--name", metavar="NAME", help="name of that dataset (default: by the kind)")
    parser.add_argument("-f", "--fold", type=_fold, metavar="FOLD", help="number, or all (default: that of the pickle, or 0)")
    parser.add_argument("--labels", type=_names, metavar="A,B", help="names of the classes beside background (default: by the kind)")
    parser.add_argument("--channels", type=_names, metavar="A,B", help="names of the input channels (default: by the kind and file name)")
    parser.add_argument("--view", choices=list(VIEWS), help="of a thalamus network (default: from the file's name)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where DatasetNNN_NAME is made (default: $nnUNet_results)")


def run(options: argparse.Namespace) -> int:
    """Import, and print the model folder."""
    from nnunet_neuro.models.importing.run import import_model
    from nnunet_neuro.views.models import nnunet_folder

    print(import_model(options.file, options.out or nnunet_folder("nnUNet_results"), kind=options.kind, pickle=options.pickle,
                       dataset_id=options.dataset_id, name=options.name, fold=options.fold, labels=options.labels,
                       channels=options.channels, view=options.view, say=_say))
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _fold(text: str) -> int | str:
    if text != "all" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no fold; expected a number, or all")
    return text if text == "all" else int(text)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name; expected names such as vessel,cell")
    return names
