"""install a model into nnUNet_results, by name, from nnU-Net's zip, or from an address

After it nnUNetv2_predict -d NUMBER and nnneuro_predict -d NUMBER work. An archive is refused unless it holds what
nnUNetv2_export_model_to_zip writes; weights are loaded without running code and must fit the plans. A download that broke off goes on
when the same command is called again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this command."""
    parser.add_argument("model", metavar="NAME|FILE|URL", help="one that nnneuro_models list shows, nnU-Net's model zip, or its address")
    parser.add_argument("--sha256", metavar="HASH", help="that the zip must have; known for those that are listed")
    parser.add_argument("--overwrite", action="store_true", help="replace the model where it is installed; without it nothing is replaced")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where to install (default: $nnUNet_results)")
    parser.add_argument("-d", dest="dataset_id", type=int, metavar="ID", help="number of the dataset (default: the model's own)")


def run(options: argparse.Namespace) -> int:
    """Install, and print the model folders."""
    from nnunet_neuro.models.install import install

    for folder in install(options.model, sha256=options.sha256, overwrite=options.overwrite, results=options.results,
                          dataset_id=options.dataset_id, say=_say):
        print(folder)
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
