"""The registry that answers nnU-Net's class search: exact names of trainers and planners, found by file name.

Stdlib only. A file `trainers/nnUNetTrainerX.py` holds the class `nnUNetTrainerX`; the same holds for `nnunet_neuro/planners/`.
Nothing is imported until a name is asked for.
"""

from __future__ import annotations

import ast
import importlib
import os
from dataclasses import dataclass
from pathlib import Path

# kind -> the package whose file names are the class names
PACKAGES = {"trainer": "nnunet_neuro.trainers", "planner": "nnunet_neuro.planners"}


@dataclass(frozen=True)
class PluginClass:
    """A class nnU-Net can ask for; the file is read, not imported."""

    kind: str
    name: str
    module: str
    path: Path

    @property
    def purpose(self) -> str:
        """First line of the class's docstring."""
        tree = ast.parse(self.path.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name == self.name:
                return (ast.get_docstring(node) or "").partition("\n")[0]
        return ""

    def load(self) -> type:
        """Import the class."""
        return getattr(importlib.import_module(self.module), self.name)


def plugin_classes() -> dict[str, PluginClass]:
    """Every class the plugin offers nnU-Net, by name."""
    found = {}
    for kind, package in PACKAGES.items():
        for path in package_files(package):
            found[path.stem] = PluginClass(kind, path.stem, f"{package}.{path.stem}", path)
    return found


def find_class(name: str) -> type | None:
    """The plugin's class of exactly this name; None where there is none, or where the user wrote one of that name."""
    # one look at the disk per question: nnU-Net asks a handful of times per process
    plugin = plugin_classes().get(name)
    return plugin.load() if plugin is not None and not _user_defines(name) else None


def _user_defines(name: str) -> bool:
    """Whether a file in the user's nnUNet_extTrainer folders defines this class; nnU-Net asks us before it looks there."""
    ours = {Path(folder).resolve() for package in PACKAGES.values() for folder in importlib.import_module(package).__path__}
    folders = [Path(folder).resolve() for folder in os.environ.get("nnUNet_extTrainer", "").split(os.pathsep) if folder.strip()]
    return any(f"class {name}(" in path.read_text(encoding="utf-8", errors="replace")
               for folder in folders if folder not in ours and folder.is_dir() for path in folder.rglob("*.py"))


def package_files(package: str) -> list[Path]:
    """The public modules of a package as sorted files, without importing them."""
    folders = importlib.import_module(package).__path__
    return sorted(path for folder in folders for path in Path(folder).glob("*.py") if not path.name.startswith("_"))
