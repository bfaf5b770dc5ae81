"""Pickles and torch files of older systems, read without running anything that they ask for.

nnU-Net v1 keeps its plans in a pickle, and Lightning names its own classes in a checkpoint, so torch's weights-only loading does not take
them. Here a pickle may build containers, numbers, NumPy arrays and tensors; every other name that it asks for is refused.
"""

from __future__ import annotations

import collections
import pickle
import tarfile
import types
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

try:
    from numpy._core import multiarray  # NumPy 2
except ImportError:
    from numpy.core import multiarray

_BUILTINS = (bool, complex, dict, float, frozenset, int, list, set, slice, str, tuple)
_DTYPES = ("bfloat16", "bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8")


class RefusedName(ValueError):
    """A pickle asked for something that is no number, no array and no container."""


class Inert(dict):
    """Stands for an object of a class that is not loaded; keeps nothing but what is put into it as into a dict."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        """Forgets the object's state."""


def read_pickle(path: Path) -> Any:
    """The content of a pickle of numbers, text, NumPy arrays and containers.

    Raises:
        OSError: no such file, or not readable.
        ValueError: it asks for anything else, or is damaged.
    """
    with path.open("rb") as stream:
        return _guarded(path, lambda: PlainUnpickler(stream).load())


def read_torch(path: Path, *, inert: Collection[str] = ()) -> Any:
    """The content of a file that `torch.save` wrote, its tensors on the CPU.

    Args:
        path: of the file, in torch's present form (zip) or the one before 1.6.
        inert: first words of module names whose classes are replaced by `Inert` instead of being refused.

    Raises:
        OSError: no such file, or not readable.
        ValueError: it asks for more than numbers, arrays, tensors and containers, is a TorchScript program, or is damaged.
    """
    class Unpickler(PlainUnpickler):
        inert_modules = tuple(inert)

    def load(stream: BinaryIO, **options: Any) -> Any:
        return Unpickler(stream, **options).load()

    # what torch asks of a pickle module
    reader = types.SimpleNamespace(__name__=__name__, Unpickler=Unpickler, load=load)
    with path.open("rb") as stream:
        _refuse_program(path)
        return _guarded(path, lambda: torch.load(stream, map_location="cpu", pickle_module=reader, weights_only=False))


class PlainUnpickler(pickle.Unpickler):
    """Knows the names of `_allowed` and no others."""

    inert_modules: tuple[str, ...] = ()

    def find_class(self, module: str, name: str) -> Any:
        """The object of that name.

        Raises:
            RefusedName: it is not on the list.
        """
        known = _allowed().get((module, name))
        if known is not None:
            return known
        if module.partition(".")[0] in self.inert_modules:
            return Inert
        raise RefusedName(f"{module}.{name}")


def _allowed() -> dict[tuple[str, str], Any]:
    names: dict[tuple[str, str], Any] = {}
    for kind in _BUILTINS:
        names["builtins", kind.__name__] = names["__builtin__", kind.__name__] = kind
    for kind in (collections.OrderedDict, collections.defaultdict):
        names["collections", kind.__name__] = kind
    names["_codecs", "encode"] = _as_bytes
    names["numpy", "ndarray"], names["numpy", "dtype"] = np.ndarray, np.dtype
    for core in ("core", "_core"):
        for function in (multiarray.scalar, multiarray._reconstruct):
            names[f"numpy.{core}.multiarray", function.__name__] = function
    for number in ("Bool", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float16", "Float32", "Float64"):
        names["numpy.dtypes", f"{number}DType"] = type(np.dtype(number.lower()))
    for dtype in _DTYPES:
        names["torch", dtype] = getattr(torch, dtype)
    names["torch", "Size"], names["torch", "device"] = torch.Size, torch.device
    for rebuild in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"):
        names["torch._utils", rebuild] = getattr(torch._utils, rebuild)
    return names


def _as_bytes(text: str, encoding: str = "latin1") -> bytes:
    """What old pickles write for bytes; only in the encoding that they use, because others are modules that would be imported."""
    if encoding != "latin1":
        raise RefusedName(f"_codecs.encode to {encoding}")
    return text.encode("latin1")


def _refuse_program(path: Path) -> None:
    if tarfile.is_tarfile(path):  # which torch would unpack
        raise ValueError(f"{path} is a tar archive, as torch wrote before 0.4; expected weights that torch.save wrote since")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:  # the form before torch 1.6, or damaged, which is told when it is read
        return
    if any(Path(name).name == "constants.pkl" for name in names):
        raise ValueError(f"{path} is a TorchScript program; expected weights that torch.save wrote")


def _guarded(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except RefusedName as error:
        raise ValueError(f"{path} asks for {error} to be loaded, which could run code and is refused; expected numbers, arrays and tensors "
                         "only: take the file from where it was made") from error
    except Exception as error:  # pickle, zip, NumPy and torch each have their own; so does memory that a damaged length asks for
        text = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is damaged or not the file that was expected ({text[:200]}); copy it again") from error
