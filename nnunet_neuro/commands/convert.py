"""`nnneuro_convert`: a source dataset into nnU-Net raw format."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from nnunet_neuro.commands._run import one_sentence_errors
from nnunet_neuro.converters import converter_names, load_converter, purpose

_PROGRAM = "nnneuro_convert"


@one_sentence_errors(_PROGRAM)
def main(argv: list[str] | None = None) -> None:
    """Parse, then write the dataset; prints its folder."""
    arguments = _parser(argv).parse_args(argv)
    if arguments.list or arguments.converter is None:
        print(_listing())
        return
    from nnunet_neuro.raw_dataset import dataset_folder, raw_folder_from_environment, write_raw_dataset
    from nnunet_neuro.raw_survey import describe, limited, survey, write_previews

    converter = load_converter(arguments.converter)
    raw_folder = arguments.raw or raw_folder_from_environment()
    info = converter.dataset_info(arguments)
    cases = limited(lambda: converter.cases(arguments), arguments.limit)
    folder = dataset_folder(info, arguments.dataset_id, raw_folder)
    if arguments.dry_run:
        parts = survey(cases, info, dataset_id=arguments.dataset_id, raw_folder=raw_folder, overwrite=arguments.overwrite)
        print(describe(parts, info, folder))
    else:
        write_raw_dataset(cases, info, dataset_id=arguments.dataset_id, raw_folder=raw_folder, workers=arguments.workers,
                          overwrite=arguments.overwrite)
        print(folder)
    if arguments.preview:
        for picture in write_previews(cases, info, Path(raw_folder) / "previews" / folder.name):
            print(picture)


def _parser(argv: list[str] | None) -> argparse.ArgumentParser:
    import sys

    parser = argparse.ArgumentParser(_PROGRAM, description="Convert a source dataset into nnU-Net raw format.",
                                     epilog="nnneuro_convert NAME --help explains one converter.")
    parser.add_argument("--list", action="store_true", help="explain every converter and its variants")
    subparsers = parser.add_subparsers(dest="converter", metavar="NAME", title="converters")
    asked = next((word for word in (sys.argv[1:] if argv is None else argv) if not word.startswith("-")), None)
    for name in converter_names():
        converter = load_converter(name)
        subparser = subparsers.add_parser(name, help=purpose(converter), description=converter.__doc__, epilog=_variants(converter),
                                          formatter_class=argparse.RawDescriptionHelpFormatter)
        if name == asked:
            _add_arguments(subparser, converter)
    return parser


def _add_arguments(parser: argparse.ArgumentParser, converter) -> None:
    converter.add_arguments(parser)
    parser.add_argument("--variant", choices=sorted(converter.VARIANTS), default=next(iter(converter.VARIANTS)),
                        help="see below (default: %(default)s)")
    parser.add_argument("-d", "--dataset-id", type=int, default=converter.DEFAULT_ID, metavar="ID",
                        help="number of the nnU-Net dataset (default: %(default)s)")
    parser.add_argument("--name", default=converter.DEFAULT_NAME, help="name of the nnU-Net dataset (default: %(default)s)")
    parser.add_argument("--raw", type=Path, metavar="FOLDER", help="where to write (default: $nnUNet_raw)")
    parser.add_argument("--workers", type=_positive, default=2, metavar="N", help="processes that read and write (default: %(default)s)")
    parser.add_argument("--limit", type=_positive, metavar="N",
                        help="convert the first N training, validation and test cases only; the rest can follow in a later run")
    parser.add_argument("--dry-run", action="store_true",
                        help="say what would be written, how large and with which class fractions; writes no dataset")
    parser.add_argument("--preview", action="store_true",
                        help="draw one PNG per group with the label over the image, into previews/ beside the dataset")
    parser.add_argument("--overwrite", action="store_true",
                        help="replace a dataset that was made with other options or by hand; without it nothing is replaced")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def _variants(converter) -> str:
    rows = (textwrap.fill(f"{name:<12}{text}", 100, subsequent_indent=" " * 12) for name, text in converter.VARIANTS.items())
    return "variants:\n" + textwrap.indent("\n".join(rows), "  ")


def _listing() -> str:
    parts = []
    for name in converter_names():
        converter = load_converter(name)
        parts.append(f"{name}: {purpose(converter)}\n" + textwrap.indent(_variants(converter), "  "))
    return "\n\n".join(parts) + f"\n\n{_PROGRAM} NAME --help explains one converter."
