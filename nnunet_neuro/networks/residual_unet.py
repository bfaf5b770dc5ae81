"""nnU-Net's plan for a plain U-Net, turned into one for a U-Net of residual blocks in encoder and decoder.

The residual network of the Kasthuri challenge (github.com/aplbrain/bossdb-kasthuri-challenge) puts a residual block behind the two
convolutions of every stage, on the way down and up. Here residual blocks take the place of the convolutions, which keeps about 1.3 times
as much for the backward pass (benchmarks/networks.py); the blocks are those of dynamic-network-architectures (He et al. 2019,
arXiv:1812.01187).
"""

from __future__ import annotations

from nnunet_neuro.networks.plans import PLAIN_UNET, require_network

RESIDUAL_UNET = "dynamic_network_architectures.architectures.unet.ResidualUNet"
RESIDUAL_ENCODER_UNET = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
CONVOLUTIONS_PER_BLOCK = 2


def residual_architecture(architecture: dict, patch_size: list[int]) -> dict:
    """The planned U-Net with one residual block in place of every two convolutions, rounded up.

    Plans of nnU-Net's residual encoder presets (nnUNetPlannerResEncM and larger) keep their numbers of blocks; the numbers of
    convolutions in their decoder become numbers of blocks.

    Args:
        architecture: section of a plan for PlainConvUNet or ResidualEncoderUNet, or what this function returned, which comes back
            unchanged.
        patch_size: not used.

    Raises:
        ValueError: the plan is for another network.
    """
    if architecture["network_class_name"] == RESIDUAL_UNET:
        return architecture
    plan = dict(architecture["arch_kwargs"])
    if architecture["network_class_name"] != RESIDUAL_ENCODER_UNET:
        require_network(architecture, PLAIN_UNET)
        plan["n_blocks_per_stage"] = _blocks(plan.pop("n_conv_per_stage"))
        plan["n_conv_per_stage_decoder"] = _blocks(plan["n_conv_per_stage_decoder"])
    return {**architecture, "network_class_name": RESIDUAL_UNET, "arch_kwargs": plan}


def _blocks(convolutions: list[int]) -> list[int]:
    return [-(-number // CONVOLUTIONS_PER_BLOCK) for number in convolutions]
