"""`nnneuro_compare`: several models side by side."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nnunet_neuro.commands._run import one_sentence_errors
from nnunet_neuro.commands.evaluate import parse_words


@one_sentence_errors("nnneuro_compare")
def main(argv: list[str] | None = None) -> int:
    """Compare the scores of several models and write the tables and the page."""
    options = _parser().parse_args(argv)

    from nnunet_neuro.evaluate.comparison.compare import compare_models
    from nnunet_neuro.evaluate.comparison.tables import comparison_text
    from nnunet_neuro.evaluate.comparison.write import check_formats, write_comparison
    from nnunet_neuro.evaluate.writing import check_folder

    check_formats(options.format)
    check_folder(options.out)
    comparison = compare_models(options.models, measures=options.measures, classes=options.classes, baseline=options.baseline,
                                groups=options.groups, seed=options.seed)
    print(comparison_text(comparison), file=sys.stderr)
    for path in write_comparison(comparison, options.out, formats=options.format):
        print(path)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnneuro_compare",
        description="Compare models on the same cases, from the scores.json that nnneuro_evaluate wrote for each: mean, sd and bootstrap "
        "interval, paired tests (Wilcoxon and sign-flip permutation, Holm-adjusted), effect sizes, box plots.")
    parser.add_argument("models", nargs="+", metavar="NAME=PATH", help="two or more; PATH is a scores.json or the folder it is in. "
                        "NAME/RATER=PATH for the same predictions measured against the masks of several raters")
    parser.add_argument("--measures", type=parse_words, default=("Dice",), metavar="WORDS", help="measures of scores.json, with commas "
                        "between (default: Dice)")
    parser.add_argument("--classes", type=parse_words, metavar="NAMES", help="only these, with commas between")
    parser.add_argument("--baseline", metavar="NAME", help="test the others against this model (default: test all pairs)")
    parser.add_argument("--groups", type=Path, metavar="CSV", help="cases.csv of the raw dataset, or a table with the columns case and "
                        "group: draw and test groups, such as animals, instead of cases")
    parser.add_argument("--out", type=Path, default=Path("comparison"), metavar="DIR", help="folder for the results (default: %(default)s)")
    parser.add_argument("--format", type=parse_words, default=("json", "csv", "tex", "html"), metavar="WORDS", help="some of "
                        "json,csv,tex,html (default: all)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of bootstrap and permutation (default: %(default)s)")
    return parser
