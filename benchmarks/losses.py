"""Time and memory of the added loss terms beside nnU-Net's own loss, and CPU time of the skeletons beside nnU-Net's augmentation.

    python benchmarks/losses.py [--device cuda] [--patch 128 128 128] [--batch 2]

Two classes at full resolution; the label is the axon label of the sample data, continued by mirroring.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import tifffile
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn

from nnunet_neuro.losses.boundary import BoundaryCrossEntropy
from nnunet_neuro.losses.cl_dice import SoftClDiceLoss
from nnunet_neuro.losses.focal_tversky import FocalTverskyLoss
from nnunet_neuro.losses.skeleton_recall import SkeletonRecallLoss, SkeletonTransform
from nnunet_neuro.losses.targets import TargetFormat

LABEL = Path(__file__).parents[1] / "nnunet_neuro" / "sample_data" / "axons" / "dlmbmap" / "train" / "Fine-label" / "label-001.tiff"


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--patch", type=int, nargs=3, default=(128, 128, 128), help="default: 128 128 128")
    parser.add_argument("--batch", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="of which the fastest counts (default: %(default)s)")
    args = parser.parse_args()
    label = mirrored_label(args.patch)
    hardware = torch.cuda.get_device_name() if args.device == "cuda" else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    print(f"{hardware}, torch {torch.__version__}, batch {args.batch} of {'x'.join(map(str, args.patch))}, one foreground class, "
          f"{(label > 0).float().mean():.1%} of the voxels\n")
    print(f"{'loss':18}{'forward, s':>12}{'backward, s':>13}{'kept for backward, GB':>23}")
    for name, (loss, target) in losses(label, args).items():
        forward, backward, kept = measure(loss, target, args)
        print(f"{name:18}{forward:12.3f}{backward:13.3f}{kept:23.2f}", flush=True)
    print(f"\nCPU time per sample, 1 thread: nnU-Net's augmentation {augmentation_seconds(label, args):.2f} s, "
          f"skeletons {skeleton_seconds(label, args):.2f} s")


def mirrored_label(shape: tuple[int, ...]) -> Tensor:
    """(1, z, y, x) int16"""
    label = (tifffile.imread(LABEL) > 0).astype(np.int16)
    label = np.pad(label, [(0, max(0, wanted - there)) for wanted, there in zip(shape, label.shape)], mode="symmetric")
    return torch.from_numpy(np.ascontiguousarray(label[tuple(slice(0, length) for length in shape)]))[None]


def losses(label: Tensor, args: argparse.Namespace) -> dict[str, tuple[nn.Module, Tensor]]:
    target, two_classes = label.expand(args.batch, *label.shape), TargetFormat()
    skeleton = SkeletonTransform()(segmentation=label)["segmentation"][-1].expand(args.batch, *label.shape)
    dice_and_entropy = DC_and_CE_loss({"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}, {},
                                      dice_class=MemoryEfficientSoftDiceLoss)
    return {
        "nnU-Net's": (dice_and_entropy, target),
        "clDice": (SoftClDiceLoss(two_classes), target),
        "skeleton recall": (SkeletonRecallLoss(two_classes), skeleton),
        "boundary": (BoundaryCrossEntropy(two_classes, (1, 1, 1)), target),
        "focal Tversky": (FocalTverskyLoss(two_classes), target),
    }


def measure(loss: nn.Module, target: Tensor, args: argparse.Namespace) -> tuple[float, float, float]:
    """Seconds forward, seconds backward, and gigabytes of tensors that wait for the backward pass."""
    target = target.to(args.device)
    logits = torch.randn(args.batch, 2, *args.patch, device=args.device, requires_grad=True)
    kept: dict[int, int] = {}  # address of a storage -> bytes

    def remember(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        loss(logits, target).backward()
    forward, backward = [], []
    for _ in range(args.repeats):
        begun = now(args.device)
        value = loss(logits, target)
        forward.append(now(args.device) - begun)
        begun = now(args.device)
        value.backward()
        backward.append(now(args.device) - begun)
        logits.grad = None
    return min(forward), min(backward), sum(kept.values()) / 1e9


def now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def augmentation_seconds(label: Tensor, args: argparse.Namespace, *, samples: int = 20) -> float:
    """Mean over samples, because each transform is applied to some of them only."""
    torch.set_num_threads(1)
    scales = [[1 / 2**level] * 3 for level in range(5)]
    transforms = nnUNetTrainer.get_training_transforms(args.patch, (-0.5, 0.5), scales, (0, 1, 2), False)
    seconds = []
    for _ in range(samples):
        begun = time.process_time()
        transforms(image=torch.randn(1, *args.patch), segmentation=label.clone())
        seconds.append(time.process_time() - begun)
    return statistics.fmean(seconds[1:])


def skeleton_seconds(label: Tensor, args: argparse.Namespace) -> float:
    torch.set_num_threads(1)
    seconds = []
    for _ in range(args.repeats):
        begun = time.process_time()
        SkeletonTransform()(segmentation=label)
        seconds.append(time.process_time() - begun)
    return min(seconds)


if __name__ == "__main__":
    main()
