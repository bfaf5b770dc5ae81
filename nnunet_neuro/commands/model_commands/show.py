"""show the card of a model: data, licence, training, scores, limits, hashes

The card tells what the model was trained on and how, the commands that train it again, and its scores on data that was in no
training, with confidence intervals, beside stock nnU-Net at the same length.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this command."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("name", nargs="?", metavar="NAME", help="one that nnneuro_models list shows")
    which.add_argument("--all", action="store_true", help="all of them")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one HTML page instead, which needs no other file")


def run(options: argparse.Namespace) -> int:
    """Print the card, or write the page and print its path."""
    from nnunet_neuro.models.catalogue import catalogue, find
    from nnunet_neuro.models.page import card_text, cards_page

    entries = list(catalogue().values()) if options.all else [find(options.name)]
    if options.html is None:
        print("\n\n\n".join(map(card_text, entries)))
        return 0
    page = cards_page(entries)
    if options.html.is_dir() or not options.html.parent.is_dir():
        raise ValueError(f"{options.html} {'is a folder' if options.html.is_dir() else 'lies in no folder that is there'}; expected a file "
                         "in a folder that is there, such as card.html")
    # written beside its place, so that a page that is there stays whole
    partial = options.html.with_name(f"{options.html.name}.part")
    partial.write_text(page, encoding="utf-8")
    partial.replace(options.html)
    print(options.html)
    return 0
