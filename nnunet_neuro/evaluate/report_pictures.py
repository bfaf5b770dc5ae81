"""What the figures of a report and of a comparison have in common: a PNG with its description, and its place in the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from nnunet_neuro.colours import class_colour

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#1d2329"
PLANE_COLOUR = "#f0b000"
CLASS_COLOURS = 8  # class_colour repeats then
# lightness in CIELAB 78, 50, 34 and 7; the ground has 97, a pale raw image 84 and more
ERROR_COLOURS = {"hit": "#8fd0a0", "extra": "#e0218a", "wrong class": "#5b3fa0", "missed": "#14141e"}
_DPI = 120


@dataclass(frozen=True)
class Picture:
    """A PNG and what it shows, in words."""

    png: bytes
    alternative: str


def new_figure(width: float, height: float, *, dpi: int = _DPI) -> Figure:
    """An empty figure; sizes in inches."""
    from matplotlib.figure import Figure

    # no pyplot: no global state, no display
    return Figure(figsize=(width, height), dpi=dpi, layout="constrained")


def png_of(figure: Figure) -> bytes:
    """The drawn figure in 256 colours, which makes it a third as large.

    They are greys and shades of the colours of classes and errors, and not those that occur most, so that a few voxels of a rare colour
    keep it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image
    from scipy.spatial import KDTree

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[..., :3].astype(np.uint32)
    found, places = np.unique(drawn @ np.array([1 << 16, 1 << 8, 1], np.uint32), return_inverse=True)
    nearest = KDTree(_palette()).query(np.stack([found >> 16, found >> 8 & 255, found & 255], axis=1))[1].astype(np.uint8)
    picture = Image.fromarray(nearest[places].reshape(drawn.shape[:2]))
    picture.putpalette(_palette().tobytes())
    stream = io.BytesIO()
    picture.save(stream, format="png", optimize=True)
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


@cache
def _palette() -> np.ndarray:
    """(256, 3) uint8: the full colours, mixed with white as edges and translucent areas are, and with black; and greys."""
    from matplotlib.colors import to_rgb

    full = np.array([to_rgb(one) for one in (*map(class_colour, range(CLASS_COLOURS)), *ERROR_COLOURS.values(), INK, PLANE_COLOUR)])
    mixed = [share * full + (1 - share) * ground for share, ground in ((1, 1), (0.75, 1), (0.5, 1), (0.3, 1), (0.6, 0))]
    colours = np.concatenate(mixed)
    greys = np.repeat(np.linspace(0, 1, 256 - len(colours))[:, None], 3, axis=1)
    return np.rint(255 * np.concatenate([colours, greys])).astype(np.uint8)
