"""What the tests of fine-tuning share."""

from __future__ import annotations

from tests.tiny_models import LABELS

TUNING = "nnUNetTrainerFineTune"


def described(channels: int | tuple[str, ...] = 1, labels: dict | None = None, **more) -> dict:
    names = channels if isinstance(channels, tuple) else tuple(f"channel {index}" for index in range(channels))
    named = {str(index): name for index, name in enumerate(names)}
    return {"channel_names": named, "labels": labels or LABELS, "file_ending": ".tif", **more}
