"""Parameters, memory and time of a training step of every network, relative to nnU-Net's own on the same plan, side by side.

    python benchmarks/networks.py [--axes 3] [--patch 128 128 128] [--batch 4] [--device cuda] [--only nnU-Net attention]

The plan is nnU-Net's default one for the patch: 32 features and more, halved down to four voxels. Every network runs in a process of its
own. Networks whose extra is not installed are left out. On a GPU a step runs with nnU-Net's mixed precision, and seconds are those of the
clock; on a CPU they are CPU time.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from nnunet_neuro.networks.deep_unet import MOST_FEATURES, deeper_architecture
from nnunet_neuro.networks.dropout_unet import dropout_architecture
from nnunet_neuro.networks.monai_networks import highresnet_architecture, vnet_architecture
from nnunet_neuro.networks.plans import PLAIN_UNET
from nnunet_neuro.networks.residual_unet import residual_architecture
from nnunet_neuro.networks.timm_unet import DECODERS, DEFAULT_ENCODER, chosen_architecture

REFERENCE = "nnU-Net"
PATCH = {2: [256, 256], 3: [32, 32, 32]}
SHORTEST_EDGE = 4
FIRST_FEATURES = 32


def named(class_name: str) -> Callable[[dict, list[int]], dict]:
    """Another class with the arguments of the plan."""
    return lambda architecture, patch_size: {**architecture, "network_class_name": class_name}


NETWORKS = {
    REFERENCE: named(PLAIN_UNET),
    "attention": named("nnunet_neuro.networks.attention_unet.AttentionUNet"),
    "axial attention": named("nnunet_neuro.networks.axial_attention.AxialAttentionUNet"),
    "deep": deeper_architecture,
    "residual": residual_architecture,
    "dropout": dropout_architecture,
    "V-Net light": vnet_architecture,
    "HighResNet": highresnet_architecture,
}
TIMM_NETWORKS = {f"{DEFAULT_ENCODER}, {decoder}": lambda *_, decoder=decoder: chosen_architecture(DEFAULT_ENCODER, decoder, None)
                 for decoder in DECODERS}
EXTRAS = {"V-Net light": "monai", "HighResNet": "monai", **dict.fromkeys(TIMM_NETWORKS, "segmentation_models_pytorch")}


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.measure:
        print(json.dumps(measure(args.measure, args)))
        return
    print(f"{describe(args.device)}; patch {'x'.join(map(str, args.patch))}, batch {args.batch}, fastest of {args.repeats} steps\n")
    print(f"{'network':26}{'parameters, million':>26}{'kept for backward, GB':>26}{'peak memory, GB':>22}{'step, seconds':>22}", flush=True)
    reference = None
    for name in available(args):
        result = measure_in_child(name, args)
        reference = reference or result
        print(f"{name:26}" + "".join(f"{value:{width}.2f}{f'{value / reference[row]:.2f} x':>9}"
                                     for (row, value), width in zip(result.items(), (17, 17, 13, 13), strict=True)), flush=True)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", type=int, choices=PATCH, default=3, help="2 adds the networks of timm (default: 3)")
    parser.add_argument("--patch", type=int, nargs="+", help=f"divisible by powers of two (default: {PATCH[3]}, or {PATCH[2]} in 2D)")
    parser.add_argument("--batch", type=int, default=2, help="default: 2, nnU-Net's smallest")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda (default: cpu)")
    parser.add_argument("--repeats", type=int, default=3, help="steps after a first one that is not counted (default: 3)")
    parser.add_argument("--only", nargs="+", choices=[*NETWORKS, *TIMM_NETWORKS], metavar="NETWORK", help="a selection of the networks")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # one network, in a child process
    args = parser.parse_args(argv)
    args.patch = args.patch or PATCH[args.axes]
    if len(args.patch) != args.axes:
        parser.error(f"--patch has {len(args.patch)} numbers, expected {args.axes}, one per axis")
    return args


def available(args: argparse.Namespace) -> list[str]:
    names = [*NETWORKS, *(TIMM_NETWORKS if args.axes == 2 else ())]
    chosen = [name for name in names if name == REFERENCE or args.only is None or name in args.only]
    return [name for name in chosen if name not in EXTRAS or importlib.util.find_spec(EXTRAS[name])]


def measure_in_child(name: str, args: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", name, "--axes", str(args.axes), "--batch", str(args.batch), "--device", args.device,
               "--repeats", str(args.repeats), "--patch", *map(str, args.patch)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def measure(name: str, args: argparse.Namespace) -> dict[str, float]:
    torch.manual_seed(0)
    on_gpu = args.device.startswith("cuda")
    network = build((NETWORKS | TIMM_NETWORKS)[name](plan(args.patch), args.patch), deep_supervision=name not in EXTRAS).to(args.device)
    image = torch.randn(args.batch, 1, *args.patch, device=args.device)
    kept = bytes_kept(network, image, on_gpu)
    times = []
    for _ in range(args.repeats):
        start = now(on_gpu)
        loss(network, image, on_gpu).backward()
        times.append(now(on_gpu) - start)
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"parameters": sum(p.numel() for p in network.parameters()) / 1e6, "kept": kept / 1e9, "peak": peak / 1e9, "step": min(times)}


def plan(patch: list[int]) -> dict:
    """The architecture that nnU-Net's default planner writes for isotropic voxels."""
    dimensions = len(patch)
    strides, edges = [[1] * dimensions], list(patch)
    while max(edges) >= 2 * SHORTEST_EDGE:
        strides.append([2 if edge >= 2 * SHORTEST_EDGE else 1 for edge in edges])
        edges = [edge // stride for edge, stride in zip(edges, strides[-1])]
    n_stages = len(strides)
    arguments = {
        "n_stages": n_stages,
        "features_per_stage": [min(FIRST_FEATURES * 2**stage, MOST_FEATURES[dimensions]) for stage in range(n_stages)],
        "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
        "kernel_sizes": [[3] * dimensions] * n_stages,
        "strides": strides,
        "n_conv_per_stage": [2] * n_stages,
        "n_conv_per_stage_decoder": [2] * (n_stages - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    imported = ["conv_op", "norm_op", "dropout_op", "nonlin"]
    return {"network_class_name": PLAIN_UNET, "arch_kwargs": arguments, "_kw_requires_import": imported}


def build(architecture: dict, *, deep_supervision: bool) -> nn.Module:
    return get_network_from_plans(architecture["network_class_name"], architecture["arch_kwargs"], architecture["_kw_requires_import"],
                                  1, 2, deep_supervision=deep_supervision)


def loss(network: nn.Module, image: torch.Tensor, on_gpu: bool) -> torch.Tensor:
    with torch.autocast(image.device.type, enabled=on_gpu):
        outputs = network(image)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    return sum(output.float().square().mean() for output in outputs)


def bytes_kept(network: nn.Module, image: torch.Tensor, on_gpu: bool) -> int:
    """Bytes that a forward pass keeps for the backward pass, parameters excluded."""
    storages: dict[int, int] = {}
    with torch.autograd.graph.saved_tensors_hooks(partial(remember_storage, storages=storages), lambda tensor: tensor):
        total = loss(network, image, on_gpu)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept = sum(size for address, size in storages.items() if address not in parameters)
    total.backward()
    return kept


def remember_storage(tensor: torch.Tensor, storages: dict[int, int]) -> torch.Tensor:
    storage = tensor.untyped_storage()
    storages[storage.data_ptr()] = storage.nbytes()
    return tensor


def now(on_gpu: bool) -> float:
    if not on_gpu:
        return time.process_time()  # other processes do not lengthen it
    torch.cuda.synchronize()
    return time.perf_counter()


def describe(device: str) -> str:
    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{platform.machine()} CPU with {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"


if __name__ == "__main__":
    main()
