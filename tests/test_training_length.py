"""The training length comes from the environment, and short trainings can be continued."""

from __future__ import annotations

import pytest
import torch

from nnunet_neuro.training import TRAINING_LENGTH, TrainingLengthMixin, training_length_from_environment


class StubTrainer:
    """nnUNetTrainer as far as the mixin sees it: same parameters, same defaults, a log."""

    def __init__(self, plans: dict, configuration: str, fold: int, dataset_json: dict,
                 device: torch.device = torch.device("cuda")) -> None:  # noqa: B008 - nnU-Net's signature
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1000, 250, 50
        self.save_every = 50
        self.log = ""

    def print_to_log_file(self, *parts: object) -> None:
        self.log += " ".join(map(str, parts))


class ShortTrainer(TrainingLengthMixin, StubTrainer):
    pass


@pytest.fixture(autouse=True)
def no_length_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in TRAINING_LENGTH.values():
        monkeypatch.delenv(variable, raising=False)


def make_trainer() -> ShortTrainer:
    return ShortTrainer({}, "3d_fullres", 0, {}, torch.device("cpu"))


def length(trainer: ShortTrainer) -> tuple[int, int, int]:
    return trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch


def test_without_variables_nothing_changes() -> None:
    trainer = make_trainer()
    assert vars(trainer) | {"log": ""} == vars(StubTrainer({}, "3d_fullres", 0, {})) | {"log": ""}


def test_variables_set_the_length_and_the_log_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNNEURO_EPOCHS", "30")
    monkeypatch.setenv("NNNEURO_ITERATIONS", " 7 ")
    monkeypatch.setenv("NNNEURO_VAL_ITERATIONS", "3")
    trainer = make_trainer()
    assert length(trainer) == (30, 7, 3)
    assert "30 epochs of 7 training and 3 validation iterations" in trainer.log
    assert "NNNEURO_EPOCHS" in trainer.log


def test_one_variable_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNNEURO_ITERATIONS", "10")
    assert length(make_trainer()) == (1000, 10, 50)


@pytest.mark.parametrize(("epochs", "save_every"), [(1, 1), (9, 1), (20, 2), (499, 49), (500, 50), (5000, 50)])
def test_checkpoints_are_frequent_enough_to_continue(epochs: int, save_every: int,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNNEURO_EPOCHS", str(epochs))
    assert make_trainer().save_every == save_every


@pytest.mark.parametrize("variable", TRAINING_LENGTH.values())
@pytest.mark.parametrize("value", ["0", "-3", "2.5", "", "ten", "1e3", "+4", "²"])
def test_bad_values_name_variable_value_and_expectation(variable: str, value: str,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=rf"{variable} .*expected a positive integer") as caught:
        training_length_from_environment()
    assert repr(value) in str(caught.value)
    assert "\n" not in str(caught.value)
