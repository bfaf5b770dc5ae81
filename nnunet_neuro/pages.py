"""The frame of an HTML page that needs no other file, no script and no network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import NamedTuple


class Section(NamedTuple):
    """A part of a page that its navigation leads to.

    Attributes:
        anchor: its id, another one for every section of a page.
        heading: text.
        body: HTML; with an empty body the section is left out.
    """

    anchor: str
    heading: str
    body: str


def page(title: str, sections: Iterable[Section], *, subtitle: str = "", style: str = "", footer: str = "") -> str:
    """A whole page.

    Args:
        title: text.
        sections: what the page holds.
        subtitle: text below the title.
        style: CSS after that of all pages; `--width` is how wide the page becomes at most.
        footer: text.
    """
    shown = [one for one in sections if one.body]
    frame = Template(files(__package__).joinpath("pages.html").read_text(encoding="utf-8"))
    return frame.substitute(
        title=escape(title),
        subtitle=f'<p class="subtitle">{escape(subtitle)}</p>' if subtitle else "",
        style=style.strip(),
        navigation="\n".join(f'<li><a href="#{escape(one.anchor)}">{escape(one.heading)}</a></li>' for one in shown),
        sections="\n".join(map(_section_html, shown)),
        footer=f"<footer><p>{escape(footer)}</p></footer>" if footer else "",
    )


def table(caption: str, heads: Sequence[str], rows: Iterable[str], *, more_heads: str = "", kind: str = "") -> str:
    """HTML of a table that scrolls sideways where it is too wide, also with the keyboard.

    Args:
        caption: text.
        heads: texts of the columns' heads.
        rows: HTML, a `tr` each.
        more_heads: HTML of further heads.
        kind: class of the table.
    """
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads) + more_heads
    body = "\n".join(rows)
    return (f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}">'
            f"<table{f' class={kind}' if kind else ''}><caption>{escape(caption)}</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>")


def _section_html(one: Section) -> str:
    anchor = escape(one.anchor)
    return (f'<section id="{anchor}" aria-labelledby="{anchor}-heading"><h2 id="{anchor}-heading">{escape(one.heading)}</h2>\n'
            f"{one.body}\n</section>")
