"""Settings of a training from the environment."""

from __future__ import annotations

import os


def whole_number(variable: str, expected: str, *, least: int = 0) -> int | None:
    """The number that a variable holds, or None where it is not set.

    Args:
        variable: its name.
        expected: what belongs there, for the message.
        least: smallest number that is possible, 0 or more.

    Raises:
        ValueError: the variable is no whole number, or too small.
    """
    text = os.environ.get(variable)
    if text is None:
        return None
    if not text.strip().isdecimal() or int(text) < least:
        raise ValueError(f"environment variable {variable} is {text!r}, expected {expected}; correct or unset it")
    return int(text)
