"""What the plans of a model would have nnU-Net import, checked before it does."""

from __future__ import annotations

import pydoc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# nnU-Net imports whatever dotted names the plans hold and calls some with arguments from the plans: `subprocess.Popen` would be one
_SAFE_PACKAGES = ("torch.nn.", "dynamic_network_architectures.", "nnunet_neuro.networks.", "nnunetv2.", "monai.networks.")


def check_plans(plans: Mapping[str, Any], path: Path) -> None:
    """Refuse plans whose network is made of anything but network parts of known packages.

    Raises:
        ValueError: a name in there is something else.
    """
    import torch

    for name in _imported_names(plans):
        part = _located(name) if name.startswith(_SAFE_PACKAGES) else None
        if not (isinstance(part, type) and issubclass(part, torch.nn.Module)):
            raise ValueError(f"{path} builds its network with {name!r}; expected network parts of PyTorch, dynamic_network_architectures, "
                             "nnU-Net, MONAI or nnunet_neuro, so allow code if you trust where the model comes from (--allow-code of "
                             "nnneuro_predict), or use nnU-Net's own commands")


def _imported_names(plans: Mapping[str, Any]) -> Iterator[str]:
    """The dotted names that nnU-Net would import to build a network of any configuration."""
    configurations = plans.get("configurations")
    for configuration in configurations.values() if isinstance(configurations, dict) else ():
        architecture = configuration.get("architecture") if isinstance(configuration, dict) else None
        if not isinstance(architecture, dict):
            continue  # a configuration that inherits, or plans of nnU-Net before 2.2, whose network nnU-Net itself names
        yield str(architecture.get("network_class_name"))
        arguments = architecture.get("arch_kwargs")
        for name in architecture.get("_kw_requires_import") or ():
            value = arguments.get(name) if isinstance(arguments, dict) else None
            if value is not None:
                yield str(value)


def _located(name: str) -> Any:
    """What nnU-Net finds under a name: where networks moved within their package, it goes by the last word."""
    part = pydoc.locate(name)
    if part is None and name.startswith("dynamic_network_architectures."):
        import dynamic_network_architectures.architectures as architectures
        from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

        part = recursive_find_python_class(architectures.__path__[0], name.rpartition(".")[2], architectures.__name__)
    return part
