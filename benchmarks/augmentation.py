"""CPU time per training sample of nnU-Net's default augmentation and of the plugin's, on one thread.

    python benchmarks/augmentation.py [--patch 128 128 128] [--samples 40] [--device cuda]

Samples are patches of made-up axon cubes that are read as in training. What a transform costs when it is applied is the median over the
samples; what it costs per sample is that times its probability. nnU-Net's transforms are timed as they are, with their own chances.
The last table is the whole work of an augmentation process, with reading a sample and handing it over, for nnUNetTrainer and for
nnUNetTrainerGPUAugment, and the time that the latter spends on the device instead.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_neuro.augment.cutmix import Donors
from nnunet_neuro.augment.histogram_matching import HistogramMatchingTransform
from nnunet_neuro.augment.on_device import BatchAugmentation, BatchSettings, PatchLoader
from nnunet_neuro.augment.quantiles import dataset_references
from nnunet_neuro.augment_training import axon_transforms, section_transforms

ROTATION = (-np.pi / 6, np.pi / 6)  # nnU-Net's range for isotropic patches
SCALES = [[0.5 ** level] * 3 for level in range(5)]  # of the deep supervision of a 128^3 network
CUBE = 240  # longer than a patch with the margin for rotation, so that all of it is read


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patch", type=int, nargs=3, default=(128, 128, 128), help="default: 128 128 128")
    parser.add_argument("--samples", type=int, default=40, help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="of nnUNetTrainerGPUAugment (default: %(default)s)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(f"{platform.machine()} CPU, 1 thread, torch {torch.__version__}, patch {'x'.join(map(str, args.patch))}, "
          f"{args.samples} samples, milliseconds of CPU time")
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder))
        loading, default, ours = measure(dataset, tuple(args.patch), args.samples)
        print_tables(loading, default, ours)
        print_workers(*measure_workers(dataset, tuple(args.patch), args.samples), args.device,
                      measure_device(dataset, tuple(args.patch), args.samples, torch.device(args.device)))


def make_dataset(folder: Path, cases: int = 4) -> nnUNetDatasetBlosc2:
    """Preprocessed cubes with noise and lines through them, the last one without lines."""
    rng = np.random.default_rng(0)
    for number in range(cases):
        image = rng.normal(size=(1, CUBE, CUBE, CUBE)).astype(np.float32)
        label = np.zeros(image.shape, np.int8)
        for _ in range(60 if number < cases - 1 else 0):
            ends = rng.uniform(0, CUBE - 1, (2, 3))
            line = np.linspace(*ends, 2 * CUBE).round().astype(int)
            label[(0, *line.T)] = 1
        image[label > 0] += 8
        image = (image - image.mean()) / image.std()
        locations = DefaultPreprocessor._sample_foreground_locations(label, [1])
        # as nnU-Net's preprocessing chooses them
        blocks, chunks = comp_blosc2_params(image.shape, (128, 128, 128))
        nnUNetDatasetBlosc2.save_case(image, label, {"class_locations": locations}, str(folder / f"cube_{number}"), chunks, blocks)
    return nnUNetDatasetBlosc2(str(folder))


def measure(dataset: nnUNetDatasetBlosc2, patch: tuple[int, ...], samples: int) -> tuple[float, dict, dict]:
    """Milliseconds per sample for loading, and of each transform: nnU-Net's per sample, ours (when applied, probability)."""
    loader = make_loader(dataset, patch, None)
    pipeline = default_pipeline(patch).transforms
    references = dataset_references(dataset, progress=False)
    added = [*axon_transforms(Donors(dataset), references, spacing=(1, 1, 1), ignore_label=None), *section_transforms(0)]
    added.append(ReadyMatching(references))
    probability = [transform.probability for transform in added]
    for transform in added:
        transform.probability = 1.0
    warm_up(pipeline, patch)
    times: dict[Any, list[float]] = defaultdict(list)
    for number in range(samples + 1):
        batch = timed(times, "loading", lambda: next(loader))
        sample = {"image": batch["data"][0], "segmentation": batch["target"][0]}
        for place, transform in enumerate(pipeline):
            if place == 1:  # the patch after the spatial transform is what ours get
                for place_of_ours, ours in enumerate(added):
                    copy = {key: value.clone() for key, value in sample.items()}
                    timed(times, ("ours", place_of_ours), lambda ours=ours, copy=copy: ours(**copy))
            sample = timed(times, ("default", place), lambda transform=transform, sample=sample: transform(**sample))
        if number == 0:
            times.clear()  # caches are filled in the first one
    default = {f"{place:2} {name(transform)}": statistics.mean(times["default", place]) for place, transform in enumerate(pipeline)}
    ours = {name(transform): (statistics.median(times["ours", place]), probability[place]) for place, transform in enumerate(added)}
    return statistics.mean(times["loading"]), default, ours


def measure_workers(dataset: nnUNetDatasetBlosc2, patch: tuple[int, ...], samples: int) -> tuple[float, float]:
    """Milliseconds per sample of an augmentation process: nnUNetTrainer's and nnUNetTrainerGPUAugment's."""
    default = default_pipeline(patch)
    warm_up(default.transforms, patch)
    loaders = {"default": make_loader(dataset, patch, default), "ours": make_loader(dataset, patch, ComposeTransforms([]), PatchLoader)}
    times: dict[Any, list[float]] = defaultdict(list)
    for number in range(samples + 1):
        for title, loader in loaders.items():
            timed(times, title, lambda loader=loader: handed_over(next(loader)))
        if number == 0:
            times.clear()
    return statistics.mean(times["default"]), statistics.mean(times["ours"])


def handed_over(batch: dict) -> dict:
    """The batch in the memory that processes share, where the training process finds it."""
    for part in (batch["data"], batch["target"]):
        for tensor in part if isinstance(part, list) else [part]:
            tensor.share_memory_()
    return batch


def measure_device(dataset: nnUNetDatasetBlosc2, patch: tuple[int, ...], samples: int, device: torch.device) -> float:
    """Milliseconds per sample that the training process spends on the augmentation, on the clock."""
    loader = make_loader(dataset, patch, ComposeTransforms([]), PatchLoader)
    augmentation = BatchAugmentation(BatchSettings(patch, ROTATION, SCALES, (0, 1, 2)), device, seed=0)
    spent = []
    for _ in range(samples + 1):
        batch = next(loader)
        start = now(device)
        augmentation(batch)
        spent.append(1000 * (now(device) - start))
    return statistics.mean(spent[1:])


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def make_loader(dataset: nnUNetDatasetBlosc2, patch: tuple[int, ...], transforms: BasicTransform | None,
                make: type[nnUNetDataLoader] = nnUNetDataLoader) -> nnUNetDataLoader:
    initial = get_patch_size(patch, ROTATION, ROTATION, ROTATION, (0.85, 1.25))
    labels = SimpleNamespace(all_labels=[0, 1], has_ignore_label=False)
    return make(dataset, 1, initial, patch, labels, oversample_foreground_percent=0.33, transforms=transforms)


def default_pipeline(patch: tuple[int, ...]) -> ComposeTransforms:
    return nnUNetTrainer.get_training_transforms(patch, ROTATION, SCALES, (0, 1, 2), False)


def warm_up(pipeline: list[BasicTransform], patch: tuple[int, ...]) -> None:
    """nnU-Net's blur tries two ways for each length of its kernel, once per process."""
    for transform in pipeline:
        for _ in range(16 if "Blur" in name(transform) else 0):
            transform.transform(image=torch.randn(1, *patch))


class ReadyMatching(HistogramMatchingTransform):
    """Histogram matching as scikit-image does it, for comparison."""

    def fill(self, image: torch.Tensor, segmentation: torch.Tensor, drawn: Any) -> None:
        from skimage.exposure import match_histograms

        matched = match_histograms(image[0].numpy(), drawn.quantiles[0].reshape((1,) * (image.ndim - 2) + (-1,)))
        image[0].lerp_(torch.from_numpy(matched).float(), drawn.strength)


def timed(times: dict[Any, list[float]], key: Any, work: Callable[[], Any]) -> Any:
    start = time.process_time()
    result = work()
    times[key].append(1000 * (time.process_time() - start))
    return result


def name(transform: BasicTransform) -> str:
    return type(getattr(transform, "transform", transform)).__name__


def print_tables(loading: float, default: dict[str, float], ours: dict[str, tuple[float, float]]) -> None:
    total = sum(default.values())
    print(f"\n{'default pipeline':36}{'per sample':>12}")
    for title, spent in default.items():
        print(f"{title:36}{spent:12.1f}")
    print(f"{'all':36}{total:12.1f}     (reading the sample: {loading:.1f})")

    print(f"\n{'plugin':36}{'applied':>12}{'probability':>13}{'per sample':>12}{'of default':>12}")
    other = {title: ours.pop(title) for title in [ReadyMatching.__name__]}
    for title, (spent, probability) in ours.items():
        print(f"{title:36}{spent:12.1f}{probability:13.2f}{spent * probability:12.1f}{spent * probability / total:12.1%}")
    together = sum(spent * probability for spent, probability in ours.values())
    applied = sum(spent for spent, _ in ours.values())
    print(f"{'all':36}{applied:12.1f}{'':13}{together:12.1f}{together / total:12.1%}")
    print(f"\n{'for comparison':36}\n{'skimage.exposure.match_histograms':36}{other[ReadyMatching.__name__][0]:12.1f}")


def print_workers(default: float, ours: float, device: str, on_device: float) -> None:
    print(f"\n{'augmentation process':36}{'per sample':>12}{'of default':>12}\n{'nnUNetTrainer':36}{default:12.1f}"
          f"\n{'nnUNetTrainerGPUAugment':36}{ours:12.1f}{ours / default:12.2f}     (and on {device}: {on_device:.1f})")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    warnings.simplefilter("ignore")
    main()
