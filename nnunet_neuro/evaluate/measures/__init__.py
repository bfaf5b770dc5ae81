"""The measures of a segmentation, one documented function each, one module per family.

A measure is computed in two steps. A count step turns the masks of one case and class into named counts; a formula turns counts into the
value. Pooling is the formula on counts summed over cases, so a pooled value and a mean of values come from the same function and cannot
drift apart. A count step that says so works block by block, with the same counts as in one piece.

To add a measure, write its formula with `@measure(...)` in the module of its family; a new kind of count is one more `@count_step(...)`;
a new family is one more module of this folder. Scores, tables, the report, `--measures` and the contract test find them in `MEASURES`.

Empty masks are decided before the formula is asked, with the values the measure declares, unless it
wants to be asked: a formula sees counts of a prediction and a
reference that both have voxels. NaN means that the measure is undefined there; such a case is left out of the mean, and the number of
cases in the mean is reported beside it.
"""

from importlib import import_module
from pkgutil import iter_modules

from nnunet_neuro.evaluate.measures.registry import (
    MEASURES,
    Counts,
    CountStep,
    Masks,
    Measure,
    NeedsMoreSurroundings,
    added,
    count,
    count_step,
    families,
    measure,
    selected,
    steps_of,
    values,
    without_unmet,
)

for _module in sorted(iter_modules(__path__), key=lambda found: (found.name != "overlap", found.name)):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["MEASURES", "CountStep", "Counts", "Masks", "Measure", "NeedsMoreSurroundings", "added", "count", "count_step", "families",
           "measure", "selected", "steps_of", "values", "without_unmet"]
