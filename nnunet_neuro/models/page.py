"""Model cards: as text for a terminal, and as one HTML page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from textwrap import fill, indent

from nnunet_neuro.models.catalogue import ModelEntry, Score
from nnunet_neuro.pages import Section, page, table

_NOT_STATED = "not stated"


def listing(entries: Iterable[ModelEntry], installed: Callable[[ModelEntry], bool | None]) -> str:
    """A table with one line for each model.

    Args:
        entries: the models.
        installed: whether one is; None where that is not known.
    """
    marks = {True: "yes", False: "no", None: "?"}
    rows = [("name", "what", "size", "licence", "score", "installed")]
    rows += [(one.name, _shortened(one.summary), one.size, one.licence, one.headline, marks[installed(one)]) for one in entries]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def card_text(entry: ModelEntry) -> str:
    """The card of a model for a terminal; lines of commands are left whole, so that they can be copied."""
    parts = [f"{entry.name}: {entry.summary}", _aligned(_facts(entry))]
    if entry.scores:
        parts.append(f"Scores on {entry.held_out or 'data that is not stated'}\n" + indent(_score_text(entry), "  "))
    for title, lines in (("Limits", entry.limits), ("Notes", entry.notes)):
        if lines:
            parts.append(f"{title}\n" + "\n".join(fill(line, 110, initial_indent="  - ", subsequent_indent="    ") for line in lines))
    for title, lines in (("Trained again by", entry.commands), ("Used by", use_commands(entry))):
        if lines:
            parts.append(f"{title}\n" + indent("\n".join(lines), "  "))
    parts.append("SHA-256\n" + "\n".join(f"  {digest}  {name}" for name, digest in _hashes(entry)))
    return "\n\n".join(parts)


def cards_page(entries: Sequence[ModelEntry]) -> str:
    """The cards of models as one HTML page."""
    title = f"Model card: {entries[0].name}" if len(entries) == 1 else "Model cards"
    return page(title, (Section(one.name, one.name, _card_html(one)) for one in entries), style=_STYLE)


def use_commands(entry: ModelEntry) -> tuple[str, ...]:
    """Lines that predict with a model, ours and plain nnU-Net's."""
    _, plans, configuration = entry.model.split("__")
    trainer = entry.model.partition("__")[0]
    number = int(entry.dataset[len("Dataset"):][:3])
    folds = sorted({name.split("/")[0].removeprefix("fold_") for name in entry.files or () if name.startswith("fold_")})
    return (f"nnneuro_predict IMAGE OUTPUT --zoo {entry.name}",
            f"nnneuro_models install {entry.name}",
            f"nnUNetv2_predict -i IMAGES -o OUT -d {number} -c {configuration} -tr {trainer} -p {plans}"
            f"{f' -f {chr(32).join(folds)}' if folds else ''}")


def _shortened(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[:most].rsplit(' ', 1)[0]} …"


def _facts(entry: ModelEntry) -> list[tuple[str, str]]:
    """What is told in a line each; the commands, scores, limits and hashes are told apart."""
    return [
        ("licence of the weights", entry.licence), ("size", entry.size),
        ("folder", f"{entry.dataset}/{entry.model}"), ("data", entry.data), ("licence of the data", entry.data_licence),
        ("citation", entry.citation), ("trainer", entry.trainer), ("plan", entry.plan), ("training", entry.training),
        ("hardware", entry.hardware), ("time", entry.time), ("date", entry.date),
        ("seed", "" if entry.seed is None else str(entry.seed)), *([("address", entry.url)] if entry.url else []),
    ]


def _hashes(entry: ModelEntry) -> list[tuple[str, str]]:
    return [(entry.url, entry.sha256)] if entry.url else list(entry.files.items())


def _aligned(facts: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in facts) + 2
    return "\n".join(fill(value or _NOT_STATED, 110, initial_indent=name.ljust(width), subsequent_indent=" " * width)
                     for name, value in facts)


def _score_rows(entry: ModelEntry) -> list[tuple[str, str, str, str]]:
    return [(one.measure, one.label, _interval(one.value, one.interval), _stock(one)) for one in entry.scores]


def _score_text(entry: ModelEntry) -> str:
    rows = [("measure", "class", "this model", "stock nnU-Net"), *_score_rows(entry)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    notes = (f"in brackets: {entry.intervals or 'confidence intervals, ' + _NOT_STATED + ' how'}",
             f"stock nnU-Net: {entry.comparison or _NOT_STATED}")
    return "\n".join([*lines, *notes])


def _interval(value: float, ends: tuple[float, float]) -> str:
    return f"{value:.3f} [{ends[0]:.3f}, {ends[1]:.3f}]"


def _stock(one: Score) -> str:
    return "the same" if one.stock is None else _interval(one.stock, one.stock_interval)


def _card_html(entry: ModelEntry) -> str:
    facts = "".join(f"<div><dt>{escape(what)}</dt><dd>{escape(value or _NOT_STATED)}</dd></div>" for what, value in _facts(entry))
    parts = [f"<p>{escape(entry.summary)}</p>", f'<dl class="facts">{facts}</dl>']
    if entry.scores:
        rows = [f'<tr><th scope="row">{escape(measure)}</th><td>{escape(label)}</td><td>{value}</td><td>{stock}</td></tr>'
                for measure, label, value, stock in _score_rows(entry)]
        parts.append("<h3>Scores</h3>" + table(
            f"Measured on {entry.held_out or 'data that is ' + _NOT_STATED}; in brackets: {entry.intervals or _NOT_STATED}",
            ("measure", "class", "this model", "stock nnU-Net"), rows)
            + f"<p>Stock nnU-Net: {escape(entry.comparison or _NOT_STATED)}.</p>")
    for title, lines in (("Limits of use", entry.limits), ("Notes", entry.notes)):
        if lines:
            parts.append(f"<h3>{title}</h3><ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>")
    for title, lines in (("Trained again by", entry.commands), ("Used by", use_commands(entry))):
        if lines:
            parts.append(f'<h3>{title}</h3><pre tabindex="0"><code>{escape(chr(10).join(lines))}</code></pre>')
    rows = [f'<tr><th scope="row">{escape(file)}</th><td><code>{digest}</code></td></tr>' for file, digest in _hashes(entry)]
    parts.append("<h3>SHA-256</h3>" + table(f"Files of {entry.name}", ("file", "SHA-256"), rows))
    return "\n".join(parts)


_STYLE = """
:root { --width: 1040px; }
.facts div { padding: 2px 0; }
.facts dt { min-width: 12em; }
.facts dd { flex: 1 1 20em; }
pre { background: #f4f6f8; border: 1px solid var(--line); padding: 10px 12px; overflow-x: auto; font-size: 0.85rem; }
@media print { pre { white-space: pre-wrap; } section { break-inside: avoid-page; } }
"""
