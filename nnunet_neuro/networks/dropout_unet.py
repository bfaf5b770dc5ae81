"""The planned network with dropout behind every convolution.

The Kasthuri challenge (github.com/aplbrain/bossdb-kasthuri-challenge) has such a U-Net, with p = 0.5 behind every activation, which none
of its configurations can select. Here dynamic-network-architectures' place for it is used, between convolution and normalisation, whole
channels are dropped instead of voxels (Tompson et al. 2015, arXiv:1411.4280: neighbouring voxels tell each other's values), and
p = 0.2: a U-Net has some twenty convolutions in a row, and half of the 32 features of its first stage would be too few.
"""

from __future__ import annotations

DROPOUT_PROBABILITY = 0.2


def dropout_architecture(architecture: dict, patch_size: list[int]) -> dict:
    """The planned network with channel dropout; plans that set a dropout of their own keep it.

    Args:
        architecture: section of a plan for a network with the arguments dropout_op and dropout_op_kwargs, as nnU-Net's U-Nets have.
        patch_size: gives the number of axes.
    """
    plan = architecture["arch_kwargs"]
    if plan.get("dropout_op") is not None:
        return architecture
    dropout = {
        "dropout_op": f"torch.nn.modules.dropout.Dropout{len(patch_size)}d",
        "dropout_op_kwargs": {"p": DROPOUT_PROBABILITY},
    }
    imported = architecture["_kw_requires_import"]
    return {
        **architecture,
        "arch_kwargs": {**plan, **dropout},
        "_kw_requires_import": imported if "dropout_op" in imported else [*imported, "dropout_op"],
    }
