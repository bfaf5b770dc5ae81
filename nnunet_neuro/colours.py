"""Colours of classes in pictures, told apart in brightness as well as in hue for colour-blind readers and grey printers."""

from __future__ import annotations

# Okabe and Ito's colours, those first that stand out from a light ground
_CLASSES = ("#0072b2", "#e69f00", "#56b4e9", "#7f5f00", "#d55e00", "#cc79a7", "#009e73", "#4d4d4d")
UNLABELLED = "#c4c4c4"


def class_colour(index: int) -> str:
    """Colour of the class with this place among the foreground classes; repeats after eight."""
    return _CLASSES[index % len(_CLASSES)]
