"""Memory and time of a training step with and without axial attention, on nnU-Net's default network for 128^3 voxels.

    python benchmarks/axial_attention_memory.py [--device cuda] [--patch 128 128 128] [--batch 2]

Every network runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from functools import partial

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

NETWORKS = {
    "without attention": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "with attention": "nnunet_neuro.networks.axial_attention.AxialAttentionUNet",
}
FEATURES = (32, 64, 128, 256, 320, 320)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, or cuda with nnU-Net's mixed precision (default: cpu)")
    parser.add_argument("--patch", type=int, nargs=3, default=(128, 128, 128), help="default: 128 128 128")
    parser.add_argument("--batch", type=int, default=2, help="largest batch size (default: 2)")
    parser.add_argument("--limit-gb", type=float, default=14, help="leave out batches that exceed it (default: 14)")
    parser.add_argument("--repeats", type=int, default=2, help="steps, of which the fastest counts (default: 2)")
    parser.add_argument("--network", choices=NETWORKS, help=argparse.SUPPRESS)  # one measurement, in a child process
    args = parser.parse_args(argv)
    if args.network:
        print(json.dumps(measure(NETWORKS[args.network], args)))
        return
    print(f"{describe(args.device)}, patch {'x'.join(map(str, args.patch))}")
    peak_of_one = 0.0
    for batch in range(1, args.batch + 1):
        if batch * peak_of_one > args.limit_gb:
            expected = batch * peak_of_one
            print(f"\nbatch {batch}: left out, about {expected:.1f} GB expected and {args.limit_gb} GB allowed")
            break
        results = [measure_in_child(name, batch, args) for name in NETWORKS]
        print_side_by_side(batch, results)
        if batch == 1:
            peak_of_one = max(result["peak memory, GB"] for result in results)


def measure_in_child(name: str, batch: int, args: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--network", name, "--device", args.device, "--batch", str(batch),
               "--repeats", str(args.repeats), "--patch", *map(str, args.patch)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def measure(class_name: str, args: argparse.Namespace) -> dict[str, float]:
    torch.manual_seed(0)
    on_gpu = args.device.startswith("cuda")
    network = build(class_name).to(args.device)
    image = torch.randn(args.batch, 1, *args.patch, device=args.device)
    saved: dict[int, int] = {}  # address of a storage -> bytes
    remember = torch.autograd.graph.saved_tensors_hooks(partial(remember_storage, saved=saved), lambda tensor: tensor)
    forward, backward = [], []
    for _ in range(args.repeats):
        with remember:
            start = now(on_gpu)
            with torch.autocast(args.device.split(":")[0], enabled=on_gpu):
                loss = sum(output.float().square().mean() for output in network(image))
            forward.append(now(on_gpu) - start)
        parameters = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
        saved_bytes = sum(size for pointer, size in saved.items() if pointer not in parameters)
        saved.clear()
        start = now(on_gpu)
        loss.backward()
        backward.append(now(on_gpu) - start)
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "parameters, million": sum(parameter.numel() for parameter in network.parameters()) / 1e6,
        "saved for backward, GB": saved_bytes / 1e9,
        "peak memory, GB": peak / 1e9,
        "nnU-Net's estimate, million elements": args.batch * network.compute_conv_feature_map_size(args.patch) / 1e6,
        "forward, s": min(forward),
        "backward, s": min(backward),
    }


def build(class_name: str) -> nn.Module:
    n_stages = len(FEATURES)
    arguments = {
        "n_stages": n_stages,
        "features_per_stage": FEATURES,
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * n_stages,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (n_stages - 1),
        "n_conv_per_stage": [2] * n_stages,
        "n_conv_per_stage_decoder": [2] * (n_stages - 1),
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return get_network_from_plans(class_name, arguments, ("conv_op", "norm_op", "dropout_op", "nonlin"), 1, 2,
                                  deep_supervision=True)


def remember_storage(tensor: torch.Tensor, saved: dict[int, int]) -> torch.Tensor:
    storage = tensor.untyped_storage()
    saved[storage.data_ptr()] = storage.nbytes()
    return tensor


def now(on_gpu: bool) -> float:
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter()


def describe(device: str) -> str:
    if device.startswith("cuda"):
        hardware = torch.cuda.get_device_name()
    else:
        hardware = f"{platform.machine()} CPU with {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return f"{hardware}, torch {torch.__version__}"


def print_side_by_side(batch: int, results: list[dict[str, float]]) -> None:
    print(f"\n{f'batch {batch}':38}" + "".join(f"{name:>20}" for name in NETWORKS))
    for row in results[0]:
        print(f"{row:38}" + "".join(f"{result[row]:20.2f}" for result in results), flush=True)


if __name__ == "__main__":
    main()
