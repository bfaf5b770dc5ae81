"""How to read each measure, as HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from importlib import import_module
from typing import TYPE_CHECKING

from nnunet_neuro.evaluate import measures
from nnunet_neuro.evaluate.fields import headlines
from nnunet_neuro.evaluate.measures import Measure
from nnunet_neuro.evaluate.report_tables import by_family
from nnunet_neuro.evaluate.report_values import unit_of
from nnunet_neuro.evaluate.summary import number_of

if TYPE_CHECKING:
    from nnunet_neuro.evaluate.scores import Evaluation


def guide(evaluation: Evaluation) -> str:
    """Every measure that was made, by family: what it says, source, unit, range, and what it is of empty masks."""
    first = set(headlines(evaluation.measured, evaluation.field_of_use))
    return "\n".join(_family(family, found, first) for family, found in by_family(evaluation.measured.values()).items())


def _family(family: str, found: Sequence[Measure], first: set[str]) -> str:
    """The headline measures open, the others closed."""
    shown = "".join(_entry(one) for one in found if one.name in first)
    others = [one for one in found if one.name not in first]
    parts = [f'<h3 id="family-{family}">{escape(family)}</h3><p>{escape(_question(family))}</p>']
    if shown:
        parts.append(f'<dl class="measures">{shown}</dl>')
    if others:
        parts.append(f"<details><summary>{number_of(len(others), 'more measure' if shown else 'measure')} of {escape(family)}</summary>"
                     f'<dl class="measures">{"".join(map(_entry, others))}</dl></details>')
    return "".join(parts)


def _question(family: str) -> str:
    """The first sentence of the module that holds the family."""
    documented = import_module(f"{measures.__name__}.{family}").__doc__ or ""
    return " ".join(documented.split("\n\n")[0].split())


def _entry(one: Measure) -> str:
    text = "".join(f"<p>{escape(' '.join(paragraph.split()))}</p>" for paragraph in one.description.split("\n\n"))
    facts = [f"{unit_of(one)}, {_limit(one.limits[0])} to {_limit(one.limits[1])}, {_direction(one)}", _empty(one)]
    if one.also_called:
        facts.append(f"Also called {', '.join(one.also_called)}")
    if one.source:
        facts.append(f"Source: {one.source}")
    fine = ". ".join(fact.rstrip(".") for fact in facts)
    return f'<div><dt>{escape(one.name)}</dt><dd>{text}<p class="fine">{escape(fine[0].upper() + fine[1:])}.</p></dd></div>'


def _direction(one: Measure) -> str:
    if one.higher_is_better is None:
        return f"perfect at {one.best:g}, wrong on both sides of it"
    return f"{'higher' if one.higher_is_better else 'lower'} is better, perfect at {one.best:g}"


def _empty(one: Measure) -> str:
    """Values of empty masks, those that agree told together."""
    cases = {"both masks are empty": one.both_empty, "the prediction alone is": one.prediction_empty,
             "the reference alone is": one.reference_empty}
    if all(value is not None and math.isnan(value) for value in cases.values()):
        return "Undefined where a mask is empty"
    return "Where " + "; where ".join(f"{when}: {_limit(value)}" for when, value in cases.items() if value is not None)


def _limit(value: float) -> str:
    if math.isnan(value):
        return "undefined"
    return ("∞" if value > 0 else "-∞") if math.isinf(value) else f"{value:.4g}"
