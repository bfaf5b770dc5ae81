"""The converters found in `dataset_converters/`: one module per source, named by its file."""

from __future__ import annotations

import importlib
from types import ModuleType

from nnunet_neuro.startup import package_files

PACKAGE = "nnunet_neuro.dataset_converters"
# what a converter module must define; the contract tests hold every file in the folder to it
REQUIRED = ("DEFAULT_ID", "DEFAULT_NAME", "VARIANTS", "add_arguments", "dataset_info", "cases")


def converter_names() -> list[str]:
    """The words after `nnneuro_convert`, sorted."""
    return [path.stem for path in package_files(PACKAGE)]


def load_converter(name: str) -> ModuleType:
    """The converter's module.

    Raises:
        ValueError: no such converter; the message lists them.
    """
    names = converter_names()
    if name not in names:
        raise ValueError(f"no converter {name!r}; choose one of {', '.join(names)}")
    return importlib.import_module(f"{PACKAGE}.{name}")


def purpose(converter: ModuleType) -> str:
    """First line of the converter's docstring."""
    return (converter.__doc__ or "").strip().partition("\n")[0]
