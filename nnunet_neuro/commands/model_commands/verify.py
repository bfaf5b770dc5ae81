"""check hashes and weights of models that ship or are installed

The files must have the hashes they had when the model was listed or installed; weights are loaded without running code and must fit the
network of the plans. Prints the folders that are sound; says on stderr what is wrong with the others, and ends with 1 if there is one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this command."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("model", nargs="?", metavar="NAME|FOLDER", help="one that nnneuro_models list shows, or a model folder")
    which.add_argument("--all", action="store_true", help="all that ship and all that are installed")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where models are installed (default: $nnUNet_results)")


def run(options: argparse.Namespace) -> int:
    """Check one model after the other."""
    from nnunet_neuro.models.installed import all_folders, folders_to_verify, verify

    folders = all_folders(options.results) if options.all else folders_to_verify(options.model, options.results)
    bad = False
    for folder in folders:
        try:
            verify(folder)
            print(folder)
        except (ValueError, OSError) as error:
            bad = True
            print(f"nnneuro_models: {folder}: {error}", file=sys.stderr)
    return int(bad)
