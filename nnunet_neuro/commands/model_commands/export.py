"""write a trained model to a file: nnU-Net's zip, weights, ONNX or TorchScript

zip          nnU-Net's own, for nnneuro_models install and nnUNetv2_install_pretrained_model_from_zip
state-dict   weights by name (.pth)
safetensors  the same in a file that cannot hold code
onnx         the network for one patch of the plan, which gives logits; needs pip install 'nnunet_neuro[export]'
torchscript  the same for torch

Each file is read again, and what it computes on a patch is compared with the network. The output is a single one, without those of deep
supervision.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

FORMATS = ("zip", "state-dict", "safetensors", "onnx", "torchscript")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this command."""
    parser.add_argument("model", metavar="MODEL", help="a name that nnneuro_models list shows, a folder TRAINER__PLANS__CONFIGURATION, or "
                        "id or name of a dataset in nnUNet_results that has one model")
    parser.add_argument("out", type=Path, metavar="OUT", help="the file; several folds get _fold_N in its name, but in a zip")
    parser.add_argument("--format", required=True, choices=FORMATS, help="see above")
    parser.add_argument("-f", "--folds", nargs="+", metavar="FOLD", help="numbers, or all (default: every trained one)")


def run(options: argparse.Namespace) -> int:
    """Export, and print the files."""
    from nnunet_neuro.models.export import export_model

    for path in export_model(options.model, options.out, file_format=options.format, folds=options.folds, say=_say):
        print(path)
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
