"""Prediction of volumes that fit in no memory, with any trained nnU-Net model: `predict_volume` here, `nnneuro_predict` as a command."""

from __future__ import annotations

from typing import Any

__all__ = ["predict_volume"]


def __getattr__(name: str) -> Any:
    """torch is imported when something is predicted, so that workers can choose their threads before."""
    if name != "predict_volume":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nnunet_neuro.predict.arrays import predict_volume

    return predict_volume
