"""The new network of an imported model, with the older weights in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from nnunet_neuro.models.importing.transfer_table import Row, WeightTransfer


def filled(architecture: Mapping[str, Any], channels: int, classes: int, weights: Mapping[str, Tensor], source: str,
           transfer: Callable[[WeightTransfer], None]) -> tuple[dict[str, Tensor], list[Row]]:
    """Build the network of a plan and put weights into it.

    Args:
        architecture: section of the plans.
        channels: of the image.
        classes: background included.
        weights: of the older network.
        source: file that they come from, for errors.
        transfer: names where each goes.

    Returns:
        The state dict of the new network, and the table.

    Raises:
        ValueError: weights are missing, left over, or of another shape; or a package that the network needs is not installed.
    """
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    network = get_network_from_plans(architecture["network_class_name"], architecture["arch_kwargs"], architecture["_kw_requires_import"],
                                     channels, classes, allow_init=False, deep_supervision=False)
    table = WeightTransfer(network, weights, source)
    transfer(table)
    return network.state_dict(), table.finish()
