"""The files of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from nnunet_neuro.evaluate.comparison.compare import Comparison
from nnunet_neuro.evaluate.comparison.latex import comparison_tex
from nnunet_neuro.evaluate.comparison.page import comparison_page
from nnunet_neuro.evaluate.comparison.tables import comparison_csv, comparison_json
from nnunet_neuro.evaluate.writing import write_together

FORMATS: dict[str, Callable[[Comparison], str]] = {
    "json": comparison_json, "csv": comparison_csv, "tex": comparison_tex, "html": comparison_page}


def check_formats(words: Sequence[str]) -> None:
    """Refuse a format that there is not.

    Raises:
        ValueError: the message lists the choices.
    """
    unknown = [word for word in words if word not in FORMATS]
    if unknown:
        raise ValueError(f"no format {', '.join(map(repr, unknown))}; expected some of {','.join(FORMATS)}")


def write_comparison(comparison: Comparison, folder: str | Path, *, formats: Sequence[str] = tuple(FORMATS)) -> list[Path]:
    """Write `comparison.json`, `.csv`, `.tex` and `.html`, all or none."""
    return write_together(Path(folder), {f"comparison.{name}": FORMATS[name](comparison) for name in formats})
