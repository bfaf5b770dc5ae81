"""show which models there are, how large, under which licence, how good, and which are installed

The score is the first measure of the card, averaged over the classes. `?` stands where nnUNet_results is not set.
Further models are listed by JSON files that the environment variable NNNEURO_MODELS names.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this command."""
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where models are installed (default: $nnUNet_results)")


def run(options: argparse.Namespace) -> int:
    """Print the table."""
    import os

    from nnunet_neuro.models.catalogue import catalogue
    from nnunet_neuro.models.installed import installed_models, results_folder
    from nnunet_neuro.models.page import listing

    known = bool(options.results or os.environ.get("nnUNet_results"))
    names = {name for _, name in installed_models(results_folder(options.results))} if known else set()
    print(listing(catalogue().values(), lambda entry: entry.name in names if known else None))
    return 0
