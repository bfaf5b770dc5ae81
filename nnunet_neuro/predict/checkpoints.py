"""nnU-Net checkpoints, read without running code from them."""

from __future__ import annotations

import pickle
import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

# torch's words in front of the name of what is no weight and no plain number
_CODE = re.compile(r"(?:GLOBAL|unrecognized function|[Uu]nsupported class|allowlisted via .{0,40} but got)\s+(\S+(?: \S+)?)")
_NEEDED = ("trainer_name", "init_args", "network_weights")
# what nnU-Net's log in a checkpoint is made of
_NUMBERS = ("Bool", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float16", "Float32", "Float64")


def load_checkpoint(path: Path, *, allow_code: bool = False) -> dict[str, Any]:
    """The content of a checkpoint, its tensors on the CPU.

    Args:
        path: a file that nnU-Net's trainer saved.
        allow_code: load files that need arbitrary code to be run, as nnU-Net itself does; only for a file whose origin is trusted.

    Raises:
        OSError: no such file, or not readable.
        ValueError: needs code and that is not allowed, damaged, or no checkpoint of nnU-Net.
    """
    with path.open("rb") as stream:  # so that a file that cannot be read is told apart from one that makes no sense
        try:
            with nullcontext() if allow_code else _plain_numbers_allowed():
                content = torch.load(stream, map_location="cpu", weights_only=not allow_code)
        except Exception as error:  # zip, pickle and torch have their own kinds each
            text = " ".join(str(error).split()) or type(error).__name__
            code = _CODE.search(text) if isinstance(error, pickle.UnpicklingError) else None
            if code:
                raise ValueError(f"{path} needs code to be loaded ({code[1]}); expected weights and plain numbers only: use a checkpoint "
                                 "that nnU-Net saved, or allow code if you trust where the file comes from") from error
            raise ValueError(f"{path} is damaged or no checkpoint ({text[:200]}); copy it again") from error
    missing = [name for name in _NEEDED if not isinstance(content, dict) or name not in content]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; expected a checkpoint that nnU-Net v2 saved while training")
    return content


def _plain_numbers_allowed() -> AbstractContextManager:
    """Lets torch load NumPy's plain numbers beside tensors while it is entered."""
    if not hasattr(torch.serialization, "safe_globals"):  # torch before 2.5 has no list to add to
        return nullcontext()
    try:
        from numpy._core import multiarray  # NumPy 2
    except ImportError:
        from numpy.core import multiarray
    functions = [multiarray.scalar, multiarray._reconstruct]
    allowed: list[Any] = [np.dtype, np.ndarray, *functions, *(type(np.dtype(name.lower())) for name in _NUMBERS)]
    if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6):  # before that, names other than the present one cannot be given
        allowed += [(function, f"numpy.{core}.multiarray.{function.__name__}") for function in functions for core in ("core", "_core")]
    return torch.serialization.safe_globals(allowed)
