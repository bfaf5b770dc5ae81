"""Trainings that can be repeated, and continued as if they had not stopped.

Every random draw comes from a stream that is named by the seed and by what it is for: the weights, an epoch, one batch. No stream depends
on what was drawn before, so a training that is continued at the start of an epoch draws what the uninterrupted one draws.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

from nnunet_neuro.training.environment import whole_number

# environment variable with the seed
SEED = "NNNEURO_SEED"
_WEIGHTS, _EPOCH, _TRAINING_BATCH, _VALIDATION_BATCH = range(4)


class RepeatableMixin:
    """Random draws from NNNEURO_SEED.

    Two trainings with the same seed, data, length and number of augmentation processes give the same losses and weights: bit for bit on
    the CPU with the same number of threads; on a GPU as far as its kernels are deterministic, for which cuDNN's search for the fastest
    ones is switched off. A training continued with `--c` and the same variables gives what the uninterrupted one gives. Batches do not
    depend on the number of augmentation processes. Without the variable all is as in nnU-Net.
    """

    def __init__(self, plans: dict, configuration: str, fold: int, dataset_json: dict,
                 device: torch.device = torch.device("cuda")) -> None:  # noqa: B008 - nnU-Net's signature
        # before nnU-Net makes its output folder
        self.seed = seed_from_environment()
        super().__init__(plans, configuration, fold, dataset_json, device)
        if self.seed is not None:
            self.print_to_log_file(f"Random draws are seeded with {self.seed} (set by {SEED})")

    def initialize(self) -> None:
        """Weights from the seed, the same on every rank."""
        if self.seed is not None:
            seed_generators(self.seed, _WEIGHTS)
        super().initialize()

    def on_train_start(self) -> None:
        """cuDNN without its search; nnU-Net switches it on just before."""
        if self.seed is not None:
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.deterministic = True
        super().on_train_start()

    def get_training_transforms(self, *args, **kwargs) -> BasicTransform:
        """nnU-Net's, none of which chooses its algorithm by the clock."""
        transforms = super().get_training_transforms(*args, **kwargs)
        if self.seed is not None:
            stop_timing(transforms)
        return transforms

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Batches that depend on their number alone."""
        if self.seed is None:
            return super().get_dataloaders()
        processes = get_allowed_n_proc_DA()
        with _environment("nnUNet_n_proc_DA", "0"):  # nnU-Net's own processes would be stopped again at once
            loaders = super().get_dataloaders()
        train, validation = (_loader_of(augmenter) for augmenter in loaders)
        return (
            in_order(SeededBatches(train, stream=(self.seed, _TRAINING_BATCH, self.local_rank),
                                   first=self.current_epoch * self.num_iterations_per_epoch),
                     processes=processes, pin_memory=self.device.type == "cuda"),
            in_order(SeededBatches(validation, stream=(self.seed, _VALIDATION_BATCH, self.local_rank),
                                   first=self.current_epoch * self.num_val_iterations_per_epoch),
                     processes=max(1, processes // 2) if processes else 0, pin_memory=self.device.type == "cuda"),
        )

    def on_train_epoch_start(self) -> None:
        """What the training process itself draws, such as dropout, from the epoch's own stream."""
        if self.seed is not None:
            seed_generators(self.seed, _EPOCH, self.local_rank, self.current_epoch)
        super().on_train_epoch_start()


def seed_from_environment() -> int | None:
    """The seed, or None where there is none.

    Raises:
        ValueError: the variable is not a whole number from 0 on.
    """
    return whole_number(SEED, "a whole number, 0 or more")


def seed_generators(*stream: int) -> None:
    """Seed Python, numpy and torch with all its devices for a stream that these numbers name."""
    words = np.random.SeedSequence(stream).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(words)
    torch.manual_seed(int(words[1]) << 32 | int(words[2]))


@contextmanager
def own_stream(*stream: int) -> Iterator[None]:
    """Python, numpy and torch on the CPU draw from a stream of their own meanwhile, and then go on where they were."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    words = np.random.SeedSequence(stream).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(words)
    torch.default_generator.manual_seed(int(words[1]) << 32 | int(words[2]))
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])


class SeededBatches:
    """The batches of a data loader, each drawn from a stream that its number names.

    Args:
        loader: gives random batches for ever.
        stream: names the streams, together with the number.
        first: number of the first batch.
    """

    def __init__(self, loader: Any, *, stream: tuple[int, ...], first: int) -> None:
        self.loader, self.stream, self.number = loader, stream, first
        self.step = 1

    def share(self, processes: int) -> None:
        """Let so many processes make the batches in turn, each from its own copy."""
        self.step = processes

    def set_thread_id(self, thread_id: int) -> None:
        """Called once in every augmentation process."""
        torch.set_num_threads(1)  # as in nnU-Net's own augmentation processes
        self.loader.set_thread_id(thread_id)
        self.number += thread_id

    def __iter__(self) -> SeededBatches:
        return self

    def __next__(self) -> dict:
        with own_stream(*self.stream, self.number):
            batch = next(self.loader)
        self.number += self.step
        return batch


def in_order(batches: SeededBatches, *, processes: int, pin_memory: bool) -> SingleThreadedAugmenter | MultiThreadedAugmenter:
    """Have the batches made by so many processes, or by this one, and come in their order.

    nnU-Net's own augmenter gives the batch that is ready first.
    """
    if processes == 0:
        return SingleThreadedAugmenter(batches, None)
    batches.share(processes)
    augmenter = MultiThreadedAugmenter(batches, None, processes, num_cached_per_queue=2, pin_memory=pin_memory, wait_time=0.002)
    augmenter.restart()
    return augmenter


def _loader_of(augmenter: Any) -> Any:
    if not isinstance(augmenter, SingleThreadedAugmenter):
        raise ValueError(f"{SEED} is set, but the batches come from a {type(augmenter).__name__}, which cannot be seeded; unset it")
    return augmenter.data_loader


@contextmanager
def _environment(variable: str, value: str) -> Iterator[None]:
    before = os.environ.get(variable)
    os.environ[variable] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


def stop_timing(transform: BasicTransform) -> None:
    """Switch off `benchmark` of a transform and of those within it: timing two algorithms that round differently."""
    if getattr(transform, "benchmark", False):
        transform.benchmark = False
    for inner in (*getattr(transform, "transforms", ()), *filter(None, [getattr(transform, "transform", None)])):
        stop_timing(inner)
