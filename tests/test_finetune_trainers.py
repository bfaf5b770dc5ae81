"""Trainers for fine-tuning: the schedule, the early end, and the segmentation heads that are carried over."""

from __future__ import annotations

import contextlib
import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

from nnunet_neuro.models.fitted_weights import trainer_class
from nnunet_neuro.training import early_stopping
from nnunet_neuro.training.carried_heads import HEADS
from nnunet_neuro.training.early_stopping import PATIENCE, epochs_without_gain, patience_from_environment
from nnunet_neuro.training.low_rate import LEARNING_RATE, learning_rate_from_environment
from tests.finetuning import TUNING
from tests.test_trainers_contract import PATCH, make_plans, workplace  # noqa: F401 - a fixture

CPU = torch.device("cpu")


@pytest.mark.parametrize(("averages", "epochs"), [
    ([], 0), ([0.1], 0), ([0.1, 0.2, 0.3], 0), ([0.5, 0.5, 0.5], 2), ([0.5, 0.4, 0.6, 0.6], 1),
    ([0.5, 0.5004, 0.5008, 0.5012], 0), ([0.5, 0.5002, 0.5004, 0.5006], 3), ([math.nan, math.nan], 0), ([0.5, 0.4, math.nan], 0),
])
def test_epochs_without_gain(averages, epochs):
    assert epochs_without_gain(averages) == epochs


def tuning_trainer(dataset, name: str = TUNING):
    plans = make_plans("2d", dataset.channels, PATCH["2d"])
    return trainer_class(name)(plans, "2d", 0, dataset.json, CPU)


def log_of(trainer) -> str:
    return Path(trainer.log_file).read_text()


def test_training_ends_early_as_a_finished_one_and_is_not_continued(workplace, monkeypatch):  # noqa: F811
    monkeypatch.setenv("NNNEURO_EPOCHS", "9")
    monkeypatch.setenv(PATIENCE, "2")
    monkeypatch.setattr(early_stopping, "SMALLEST_GAIN", 2.0)  # of a Dice: only the first epoch gains
    dataset = workplace.make_dataset("2d", 1)
    trainer = tuning_trainer(dataset)
    trainer.run_training()
    assert trainer.current_epoch == 3
    assert "for 2 epochs; 3 of 9 epochs were trained" in log_of(trainer) and "set by NNNEURO_PATIENCE" in log_of(trainer)
    folder = Path(trainer.output_folder)
    assert {path.name for path in folder.glob("*.pth")} == {"checkpoint_final.pth", "checkpoint_best.pth"}
    trained = torch.load(folder / "checkpoint_final.pth", weights_only=False)
    assert trained["current_epoch"] == 3 and len(trained["logging"]["ema_fg_dice"]) == 3

    continued = tuning_trainer(dataset)
    continued.load_checkpoint(str(folder / "checkpoint_final.pth"))
    continued.run_training()
    again = torch.load(folder / "checkpoint_final.pth", weights_only=False)
    assert again["current_epoch"] == 3
    assert all(torch.equal(again["network_weights"][name], weights) for name, weights in trained["network_weights"].items())

    monkeypatch.setenv(PATIENCE, "0")
    continued = tuning_trainer(dataset)
    continued.load_checkpoint(str(folder / "checkpoint_final.pth"))
    continued.run_training()
    assert continued.current_epoch == 9 and "Early stopping: never" in log_of(continued)


@pytest.mark.parametrize("answer", [True, False])
def test_the_first_gpu_decides_for_all(answer, workplace, monkeypatch):  # noqa: F811
    trainer = tuning_trainer(workplace.make_dataset("2d", 1))
    # its own log would say the opposite
    trainer.logger.local_logger.my_fantastic_logging["ema_fg_dice"] = [0.9] * 3 if not answer else [0.1, 0.5, 0.9]
    trainer.is_ddp, trainer.patience = True, 2

    def broadcast(answers: list, src: int) -> None:
        assert src == 0 and answers == [not answer]
        answers[0] = answer

    monkeypatch.setattr(torch.distributed, "broadcast_object_list", broadcast)
    with pytest.raises(Exception, match="Early stopping") if answer else contextlib.nullcontext():
        trainer.on_epoch_start()


def test_learning_rate_from_the_trainer_or_the_environment(workplace, monkeypatch):  # noqa: F811
    dataset = workplace.make_dataset("2d", 1)
    rates = {}
    for given in (None, "0.02"):
        if given:
            monkeypatch.setenv(LEARNING_RATE, given)
        trainer = tuning_trainer(dataset)
        trainer.num_epochs = 10
        trainer.initialize()
        rates[given] = [trainer.lr_scheduler.step(epoch) or trainer.optimizer.param_groups[0]["lr"] for epoch in (0, 5, 9)]
    assert rates[None][0] == pytest.approx(1e-3) and rates["0.02"][0] == pytest.approx(0.02)
    np.testing.assert_allclose(np.divide(rates[None], rates["0.02"]), 0.05)
    assert rates[None][0] > rates[None][1] > rates[None][2] > 0


@pytest.mark.parametrize(("variable", "read", "values"), [
    (PATIENCE, patience_from_environment, ("-1", "2.5", "many", "")),
    (LEARNING_RATE, learning_rate_from_environment, ("0", "-1", "fast", "nan", "inf", "")),
])
def test_bad_settings_name_variable_value_and_expectation(variable, read, values, monkeypatch):
    for value in values:
        monkeypatch.setenv(variable, value)
        with pytest.raises(ValueError, match=f"{variable} is '{value}', expected .* unset it") as caught:
            read()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [TUNING, "nnUNetTrainerFineTuneFrozenEncoder"])
def test_heads_are_taken_over_once(name, workplace, monkeypatch, tmp_path):  # noqa: F811
    dataset = workplace.make_dataset("2d", 1)
    source = tuning_trainer(dataset, name)
    source.initialize()
    file = tmp_path / "fitted.pth"
    torch.save({"network_weights": source.network.state_dict()}, file)
    monkeypatch.setenv(HEADS, str(file))

    def heads(trainer) -> torch.Tensor:
        return torch.cat([weights.flatten() for key, weights in trainer.network.state_dict().items() if ".seg_layers." in key]).clone()

    tuned = tuning_trainer(dataset, name)
    tuned.initialize()
    with contextlib.redirect_stdout(io.StringIO()):
        load_pretrained_weights(tuned.network, file)
    assert not torch.equal(heads(tuned), heads(source)), "nnU-Net leaves them out"
    tuned.on_train_start()
    assert torch.equal(heads(tuned), heads(source)) and f"Segmentation heads: those of {file}" in log_of(tuned)

    continued = tuning_trainer(dataset, name)
    continued.initialize()
    before, continued.current_epoch = heads(continued), 1
    continued.on_train_start()
    assert torch.equal(heads(continued), before)

    torch.save({"network_weights": {key: weights[:2] for key, weights in source.network.state_dict().items()}}, file)
    with pytest.raises(ValueError, match=f"{HEADS} names .*decoder.seg_layers.* is 2 x .*, expected 3 x "):
        tuned.on_train_start()
