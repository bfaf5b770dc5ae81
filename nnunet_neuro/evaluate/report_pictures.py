"""What the figures of the report have in common: a PNG with its description, and its place in the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#1d2329"
_DPI = 120


@dataclass(frozen=True)
class Picture:
    """A PNG and what it shows, in words."""

    png: bytes
    alternative: str


def new_figure(width: float, height: float) -> Figure:
    """An empty figure; sizes in inches."""
    from matplotlib.figure import Figure

    # no pyplot: no global state, no display
    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained")


def png_of(figure: Figure) -> bytes:
    """The drawn figure, in 256 colours, which makes it a third as large.

    Colours are shared out by the area of a cube of all colours and not by how often they occur, so that a few voxels of a rare colour
    keep it.
    """
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})
    few = Image.open(drawn).convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    stream = io.BytesIO()
    few.save(stream, format="png", optimize=True)
    return stream.getvalue()


def plain(text: str) -> str:
    """Text that matplotlib neither reads as a formula nor, for a leading underscore, leaves out of a legend."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def figure_tag(picture: Picture, caption: str) -> str:
    """HTML of a picture with its caption.

    Args:
        picture: what is shown.
        caption: HTML.
    """
    data = base64.b64encode(picture.png).decode("ascii")
    return (f'<figure><figcaption>{caption}</figcaption><img alt="{escape(picture.alternative)}" '
            f'src="data:image/png;base64,{data}"></figure>')
