"""Checkpoints that survive a kill, trainings that repeat and continue exactly, and frozen encoders."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from nnunet_neuro.training import (
    SEED,
    AtomicCheckpointMixin,
    FrozenEncoderMixin,
    NeuroTrainerMixin,
    PlanNetworkMixin,
    RepeatableMixin,
    seed_from_environment,
)
from nnunet_neuro.training.repeatable import SeededBatches, own_stream, seed_generators, stop_timing
from tests.test_trainers_contract import PATCH, Dataset, make_plans, workplace  # noqa: F401 - a fixture

CPU = torch.device("cpu")


class Neuro(NeuroTrainerMixin, nnUNetTrainer):
    """nnU-Net's trainer with the conveniences alone."""


class Frozen(FrozenEncoderMixin, NeuroTrainerMixin, nnUNetTrainer):
    """With a frozen encoder."""


class FrozenAttention(FrozenEncoderMixin, PlanNetworkMixin, NeuroTrainerMixin, nnUNetTrainer):
    """With a frozen encoder and the first up-sampling, as the thalamus benchmark, in another network."""

    network_class_name = "nnunet_neuro.networks.axial_attention.AxialAttentionUNet"
    frozen_parts = ("encoder", "decoder.transpconvs.0")


def make_trainer(trainer_class: type, dataset: Dataset, *, configuration: str = "2d", norm: str | None = None,
                 dropout: float = 0.0) -> nnUNetTrainer:
    plans = make_plans(configuration, dataset.channels, PATCH[configuration])
    arguments = plans["configurations"][configuration]["architecture"]["arch_kwargs"]
    dimensions = len(PATCH[configuration])
    if norm is not None:
        arguments["norm_op"] = f"torch.nn.{norm}{dimensions}d"
    if dropout:
        arguments["dropout_op"], arguments["dropout_op_kwargs"] = f"torch.nn.Dropout{dimensions}d", {"p": dropout}
    return trainer_class(plans, configuration, 0, dataset.json, CPU)


# --- checkpoints ----------------------------------------------------------------------------------------------------------------------


def savable(trainer_class: type) -> nnUNetTrainer:
    """A trainer with what save_checkpoint needs and nothing else; its weights take some milliseconds to write."""
    trainer = object.__new__(trainer_class)
    trainer.local_rank, trainer.is_ddp, trainer.disable_checkpointing = 0, False, False
    trainer.network = nn.Linear(700, 700)
    trainer.optimizer, trainer.grad_scaler = torch.optim.SGD(trainer.network.parameters(), lr=0.1), None
    trainer.logger = type("Logger", (), {"get_checkpoint": lambda self: {}})()
    trainer.my_init_kwargs, trainer._best_ema, trainer.inference_allowed_mirroring_axes, trainer.current_epoch = {}, None, None, 0
    return trainer


class Atomic(AtomicCheckpointMixin, nnUNetTrainer):
    pass


def save_for_ever(trainer_class: type, checkpoint: str) -> None:
    torch.set_num_threads(1)
    trainer = savable(trainer_class)
    while True:
        with torch.no_grad():
            trainer.network.weight.fill_(trainer.current_epoch)
        trainer.save_checkpoint(checkpoint)
        trainer.current_epoch += 1


def broken_after_kills(trainer_class: type, checkpoint: Path, *, kills: int) -> int:
    """Kill -9 a process that saves without a pause at random moments; how often the checkpoint cannot be read then."""
    draw, broken = random.Random(0), 0
    savable(trainer_class).save_checkpoint(str(checkpoint))
    for _ in range(kills):
        # forked, because importing torch anew takes seconds
        process = multiprocessing.get_context("fork").Process(target=save_for_ever, args=(trainer_class, str(checkpoint)))
        process.start()
        time.sleep(0.01 + draw.random() * 0.1)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        try:
            saved = torch.load(checkpoint, weights_only=False)
            weight = saved["network_weights"]["weight"]
            assert (weight == weight[0, 0]).all() or saved["current_epoch"] == 1
        except (RuntimeError, EOFError, OSError, AssertionError):
            broken += 1
            savable(trainer_class).save_checkpoint(str(checkpoint))
    return broken


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_fifty_kills_leave_a_loadable_checkpoint(tmp_path):
    checkpoint = tmp_path / "checkpoint_latest.pth"
    assert broken_after_kills(Atomic, checkpoint, kills=50) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) in (
        ["checkpoint_latest.pth"], ["checkpoint_latest.pth", "checkpoint_latest.pth.part"]
    ), "one left-over at most, and it is overwritten by the next"


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_such_kills_do_break_what_is_written_in_place(tmp_path):
    assert broken_after_kills(nnUNetTrainer, tmp_path / "checkpoint_latest.pth", kills=10) > 0


def test_a_failed_save_keeps_the_former_checkpoint(tmp_path, monkeypatch):
    checkpoint, trainer = tmp_path / "checkpoint_best.pth", savable(Atomic)
    trainer.save_checkpoint(str(checkpoint))
    before = checkpoint.read_bytes()

    def disk_is_full(content: dict, filename: str) -> None:
        Path(filename).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", disk_is_full)
    with pytest.raises(OSError, match="no space"):
        trainer.save_checkpoint(str(checkpoint))
    assert checkpoint.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint_best.pth"]


def test_other_ranks_write_nothing(tmp_path):
    trainer = savable(Atomic)
    trainer.local_rank = 1
    trainer.save_checkpoint(str(tmp_path / "checkpoint_best.pth"))
    assert not list(tmp_path.iterdir())


def test_disabled_checkpoints_stay_disabled(tmp_path, monkeypatch):
    trainer, said = savable(Atomic), []
    trainer.disable_checkpointing = True
    monkeypatch.setattr(Atomic, "print_to_log_file", lambda self, *words: said.extend(words), raising=False)
    trainer.save_checkpoint(str(tmp_path / "checkpoint_best.pth"))
    assert not list(tmp_path.iterdir()) and "disabled" in said[0]


# --- seeds ----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def three_epochs(monkeypatch):
    monkeypatch.setenv("NNNEURO_EPOCHS", "3")


def losses(trainer: nnUNetTrainer) -> list[float]:
    logged = trainer.logger.get_checkpoint()
    return [float(value) for value in (*logged["train_losses"], *logged["val_losses"])]


def weights(trainer: nnUNetTrainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.network.parameters()])


def run(dataset: Dataset, configuration: str = "2d") -> nnUNetTrainer:
    trainer = make_trainer(Neuro, dataset, configuration=configuration, dropout=0.2)
    trainer.run_training()
    return trainer


def disturb_generators() -> None:
    """What a new process would have drawn from is not what this one draws from."""
    seed_generators(int(time.time_ns() % 2**32))


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_the_same_seed_gives_the_same_training(configuration, workplace, three_epochs, monkeypatch):  # noqa: F811
    monkeypatch.setenv(SEED, "7")
    dataset = workplace.make_dataset(configuration, 1)
    first = run(dataset, configuration)
    disturb_generators()
    second = run(dataset, configuration)
    assert losses(first) == losses(second)
    assert torch.equal(weights(first), weights(second))
    monkeypatch.setenv(SEED, "8")
    assert not set(losses(first)) & set(losses(run(dataset, configuration)))


def test_the_batches_do_not_depend_on_who_makes_them(workplace, monkeypatch):  # noqa: F811
    """No, one, two and three augmentation processes; and the processes do not repeat each other."""
    monkeypatch.setenv(SEED, "7")
    dataset = workplace.make_dataset("2d", 1)
    found = {}
    for processes in (0, 1, 2, 3):
        # nnU-Net never takes more than there are cores
        monkeypatch.setattr(os, "cpu_count", lambda: 8)
        monkeypatch.setenv("nnUNet_n_proc_DA", str(processes))
        disturb_generators()
        trainer = make_trainer(Neuro, dataset)
        trainer.initialize()
        loaders = trainer.get_dataloaders()
        assert isinstance(loaders[0], SingleThreadedAugmenter if processes == 0 else MultiThreadedAugmenter)
        found[processes] = [[next(loader) for _ in range(5)] for loader in loaders]
        for loader in loaders:
            if processes:
                assert loader.num_processes == (processes if loader is loaders[0] else max(1, processes // 2))
                loader._finish()
    for processes in (1, 2, 3):
        for mine, others in zip(found[0], found[processes]):
            for batch, other in zip(mine, others):
                torch.testing.assert_close(batch["data"], other["data"])
                assert all(torch.equal(a, b) for a, b in zip(batch["target"], other["target"]))
                assert list(batch["keys"]) == list(other["keys"])
    data = [batch["data"] for batch in found[0][0]]
    assert not any(torch.equal(data[i], data[j]) for i in range(5) for j in range(i))


@pytest.mark.slow
def test_a_training_with_augmentation_processes_repeats(workplace, three_epochs, monkeypatch):  # noqa: F811
    monkeypatch.setenv(SEED, "7")
    dataset = workplace.make_dataset("2d", 1)
    alone = run(dataset)
    monkeypatch.setenv("nnUNet_n_proc_DA", "2")
    first, second = run(dataset), run(dataset)
    assert losses(first) == losses(second)
    assert losses(first) == pytest.approx(losses(alone), rel=1e-4)


class Interrupted(Neuro):
    """Killed in its third epoch, after its first iteration."""

    def train_step(self, batch: dict) -> dict:
        self.steps = getattr(self, "steps", 0) + 1
        if self.current_epoch == 2 and self.steps == 2 * self.num_iterations_per_epoch + 2:
            raise KeyboardInterrupt
        return super().train_step(batch)


@pytest.mark.parametrize("processes", ["0", "2"])
def test_a_continued_training_gives_what_the_uninterrupted_gives(processes, workplace, three_epochs, monkeypatch):  # noqa: F811
    monkeypatch.setenv(SEED, "7")
    monkeypatch.setenv("nnUNet_n_proc_DA", processes)
    dataset = workplace.make_dataset("2d", 1)
    whole = run(dataset)
    interrupted = make_trainer(Interrupted, dataset, dropout=0.2)
    with pytest.raises(KeyboardInterrupt):
        interrupted.run_training()
    disturb_generators()
    continued = make_trainer(Interrupted, dataset, dropout=0.2)
    continued.steps = 10**6
    continued.load_checkpoint(str(Path(interrupted.output_folder) / "checkpoint_latest.pth"))
    assert continued.current_epoch == 2
    continued.run_training()
    assert losses(continued) == losses(whole)
    assert torch.equal(weights(continued), weights(whole))
    assert continued.optimizer.param_groups[0]["lr"] == whole.optimizer.param_groups[0]["lr"]
    for loader in (interrupted.dataloader_train, interrupted.dataloader_val):
        if processes != "0":
            loader._finish()


def test_without_a_seed_the_batches_are_nnunets(workplace, monkeypatch):  # noqa: F811
    monkeypatch.delenv(SEED, raising=False)
    dataset = workplace.make_dataset("2d", 1)
    trainer = make_trainer(Neuro, dataset)
    trainer.initialize()
    train, validation = trainer.get_dataloaders()
    assert not isinstance(train.data_loader, SeededBatches) and not isinstance(validation.data_loader, SeededBatches)
    assert trainer.seed is None


@pytest.mark.parametrize("value", ["-1", "2.5", "", "one", "1e3", "+4"])
def test_bad_seeds_name_variable_value_and_expectation(value, monkeypatch, workplace):  # noqa: F811
    monkeypatch.setenv(SEED, value)
    with pytest.raises(ValueError, match=rf"{SEED} .*expected a whole number") as caught:
        make_trainer(Neuro, workplace.make_dataset("2d", 1))
    assert repr(value) in str(caught.value) and "\n" not in str(caught.value)
    assert not list((workplace.preprocessed.parent / "results").iterdir()), "refused before nnU-Net makes its folder"


@pytest.mark.parametrize(("value", "seed"), [("0", 0), (" 12 ", 12), (str(2**40), 2**40)])
def test_good_seeds(value, seed, monkeypatch):
    monkeypatch.setenv(SEED, value)
    assert seed_from_environment() == seed


def test_a_stream_of_its_own_leaves_the_others_alone():
    seed_generators(5)
    expected = random.random(), np.random.rand(), torch.rand(1)
    seed_generators(5)
    with own_stream(1, 2):
        inside = random.random(), np.random.rand(), float(torch.rand(1))
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected
    with own_stream(1, 2):
        assert (random.random(), np.random.rand(), float(torch.rand(1))) == inside
    with own_stream(1, 3):
        assert not {random.random(), np.random.rand(), float(torch.rand(1))} & set(inside)


def test_seeded_transforms_do_not_choose_by_the_clock(workplace, monkeypatch):  # noqa: F811
    """nnU-Net's blur times two convolutions, which round differently."""
    def timing(transform) -> bool:
        inner = (*getattr(transform, "transforms", ()), *filter(None, [getattr(transform, "transform", None)]))
        return bool(getattr(transform, "benchmark", False)) or any(timing(one) for one in inner)

    def transforms(seed: str | None):
        monkeypatch.delenv(SEED, raising=False)
        if seed is not None:
            monkeypatch.setenv(SEED, seed)
        trainer = make_trainer(Neuro, dataset)
        return trainer.get_training_transforms(PATCH["2d"], (-1, 1), None, (0, 1), False)

    dataset = workplace.make_dataset("2d", 1)
    assert timing(transforms(None)) and not timing(transforms("0"))
    left = transforms(None)
    stop_timing(left)
    assert not timing(left)


def test_batches_that_cannot_be_seeded_are_refused(workplace, monkeypatch):  # noqa: F811
    class FromAList(nnUNetTrainer):
        def get_dataloaders(self):
            return [], []

    class SeededList(RepeatableMixin, FromAList):
        pass

    monkeypatch.setenv(SEED, "0")
    trainer = make_trainer(SeededList, workplace.make_dataset("2d", 1))
    with pytest.raises(ValueError, match=f"{SEED} is set, but the batches come from a list"):
        trainer.get_dataloaders()
    assert os.environ["nnUNet_n_proc_DA"] == "0"


# --- frozen encoder -------------------------------------------------------------------------------------------------------------------


def state_of(trainer: nnUNetTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.network.state_dict().items()}


def changed(before: dict[str, torch.Tensor], trainer: nnUNetTrainer) -> set[str]:
    return {name for name, value in trainer.network.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize(("trainer_class", "configuration"), [(Frozen, "2d"), (Frozen, "3d_fullres"), (FrozenAttention, "2d")])
@pytest.mark.parametrize("norm", ["InstanceNorm", "BatchNorm"])
def test_the_frozen_parts_stay_and_the_rest_learns(trainer_class, configuration, norm, workplace):  # noqa: F811
    dataset = workplace.make_dataset(configuration, 1)
    trainer = make_trainer(trainer_class, dataset, configuration=configuration, norm=norm, dropout=0.3)
    trainer.initialize()
    before = state_of(trainer)
    trainer.run_training()
    learned = changed(before, trainer)
    # the decoder holds the encoder as well
    frozen = tuple(f"{path}{part}." for part in trainer.frozen_parts for path in ("", "decoder."))
    assert not [name for name in learned if name.startswith(frozen)]
    if norm == "BatchNorm":
        assert any("running_mean" in name for name in before if name.startswith("encoder."))
        assert any("running_mean" in name for name in learned)
    trained = {name for name, parameter in trainer.network.named_parameters() if parameter.requires_grad}
    # the lowest head of deep supervision has no weight in nnU-Net's loss
    assert {name for name in trained if ".seg_layers.0." not in name} <= learned
    trainer.on_train_epoch_start()
    assert not any(module.training for module in trainer.network.encoder.modules())
    assert trainer.network.decoder.stages.training


def test_the_optimizer_is_given_the_rest(workplace):  # noqa: F811
    trainer = make_trainer(Frozen, workplace.make_dataset("2d", 1))
    trainer.initialize()
    given = {id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]}
    assert given == {id(parameter) for parameter in trainer.network.parameters() if parameter.requires_grad}
    assert not given & {id(parameter) for parameter in trainer.network.encoder.parameters()}
    assert len(given) > 0


def test_weights_loaded_after_the_freeze_stay_frozen(workplace):  # noqa: F811
    dataset = workplace.make_dataset("2d", 1)
    source = make_trainer(Neuro, dataset)
    source.run_training()
    checkpoint = str(Path(source.output_folder) / "checkpoint_final.pth")
    tuned = make_trainer(Frozen, dataset)
    tuned.initialize()
    load_pretrained_weights(tuned.network, checkpoint)  # as nnUNetv2_train -pretrained_weights does
    tuned.run_training()
    for name, value in source.network.encoder.state_dict().items():
        assert torch.equal(value, tuned.network.encoder.state_dict()[name])
    assert not torch.equal(source.network.decoder.stages[0].state_dict()["convs.0.conv.weight"],
                           tuned.network.decoder.stages[0].state_dict()["convs.0.conv.weight"])
    assert "no weights were loaded" not in log_of(tuned)


def test_a_continued_training_is_frozen_still(workplace, monkeypatch):  # noqa: F811
    dataset = workplace.make_dataset("2d", 1)
    trainer = make_trainer(Frozen, dataset)
    trainer.run_training()
    monkeypatch.setenv("NNNEURO_EPOCHS", "2")
    continued = make_trainer(Frozen, dataset)
    continued.load_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    before = state_of(continued)
    continued.run_training()
    assert continued.current_epoch == 2
    learned = changed(before, continued)
    assert learned and not [name for name in learned if name.startswith(("encoder.", "decoder.encoder."))]


def test_training_on_random_frozen_weights_is_warned_of(workplace):  # noqa: F811
    trainer = make_trainer(Frozen, workplace.make_dataset("2d", 1))
    trainer.run_training()
    assert "encoder will not be trained, and no weights were loaded" in log_of(trainer)


def test_a_network_without_such_a_part_is_refused(workplace):  # noqa: F811
    class FreezesNothing(Frozen):
        frozen_parts = ("backbone",)

    trainer = make_trainer(FreezesNothing, workplace.make_dataset("2d", 1))
    with pytest.raises(ValueError, match="FreezesNothing freezes backbone, but PlainConvUNet has no backbone, only encoder, decoder"):
        trainer.initialize()


def log_of(trainer: nnUNetTrainer) -> str:
    return Path(trainer.log_file).read_text()
