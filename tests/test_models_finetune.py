"""Fine-tuning: what becomes of a model's weights and plans on another dataset, the schedule, the early end, and the whole command."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import shutil
import sys
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.logging.nnunet_logger import MetaLogger

from nnunet_neuro.commands.models import main
from nnunet_neuro.models.fitted_weights import build_network, default_trainer, fit_weights, trainer_class, write_fitted_weights
from nnunet_neuro.models.pretrained import load_pretrained
from nnunet_neuro.models.transfer import (
    ADAPTED,
    KEPT,
    NEW,
    channel_mixing,
    layer_table,
    resized_positions,
    transfer_weights,
    use_of,
)
from nnunet_neuro.models.transferred_plans import fitted_plans, with_trained_network
from nnunet_neuro.networks.plans import PLAIN_UNET
from nnunet_neuro.training import early_stopping
from nnunet_neuro.training.carried_heads import HEADS
from nnunet_neuro.training.early_stopping import PATIENCE, epochs_without_gain, patience_from_environment
from nnunet_neuro.training.low_rate import LEARNING_RATE, learning_rate_from_environment
from tests.test_trainers_contract import PATCH, make_plans, workplace  # noqa: F401 - a fixture
from tests.tiny_models import LABELS, REGIONS, tiny_model

TUNING = "nnUNetTrainerFineTune"
CPU = torch.device("cpu")


def described(channels: int | tuple[str, ...] = 1, labels: dict | None = None, **more) -> dict:
    names = channels if isinstance(channels, tuple) else tuple(f"channel {index}" for index in range(channels))
    named = {str(index): name for index, name in enumerate(names)}
    return {"channel_names": named, "labels": labels or LABELS, "file_ending": ".tif", **more}


def network_of(fitted, model, dataset_json: dict, trainer: str = TUNING) -> torch.nn.Module:
    """The new network with the fitted weights, strictly loaded."""
    use = use_of(model.plans, model.configuration, dataset_json)
    network = build_network(model.plans, model.configuration, trainer, len(use.channels), len(use.heads))
    network.load_state_dict(fitted.state)
    return network.eval()


def fit(model, dataset_json: dict, trainer: str = TUNING):
    return fit_weights(model, model.plans, model.configuration, trainer, dataset_json)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Trained models: of one channel, of two, in 2D, and of regions."""
    root = tmp_path_factory.mktemp("models")
    return {"one": tiny_model(root / "one"), "two": tiny_model(root / "two", channels=2), "flat": tiny_model(root / "flat", patch=(32, 24)),
            "regions": tiny_model(root / "regions", labels=REGIONS)}


# --- weights ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["one", "flat"])
@pytest.mark.parametrize("channels", [2, 3])
def test_equal_channels_give_the_output_of_the_one_channel(folders, kind, channels):
    model = load_pretrained(str(folders[kind]))
    fitted = fit(model, described(channels))
    image = torch.randn(2, 1, *model.use.patch)
    with torch.no_grad():
        before = network_of(fit(model, described()), model, described())(image)
        after = network_of(fitted, model, described(channels))(image.expand(-1, channels, *model.use.patch))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    changed = [change for change in fitted.changes if change.what != KEPT]
    assert [change.layer for change in changed] == ["encoder.stages.0.0.convs.0.conv.weight"]
    assert f"1 to {channels} channels" in changed[0].how


@pytest.mark.parametrize("old", [1, 2, 3])
@pytest.mark.parametrize("new", [1, 2, 3, 4])
def test_any_number_of_channels_keeps_the_response_to_equal_ones(old, new):
    mixing, words = channel_mixing([f"a{index}" for index in range(old)], [f"b{index}" for index in range(new)])
    if old == new:
        assert mixing is None and not words
    else:
        assert mixing.shape == (new, old) and words
        torch.testing.assert_close(mixing.sum(0), torch.ones(old))


def test_channels_follow_their_names(folders):
    model = load_pretrained(str(folders["two"]))
    fitted = fit(model, described(("channel 1", "channel 0")))
    image = torch.randn(1, 2, *model.use.patch)
    with torch.no_grad():
        before = network_of(fit(model, described(2)), model, described(2))(image)
        after = network_of(fitted, model, described(2))(image.flip(1))
    torch.testing.assert_close(after, before)
    assert any("order channel 1, channel 0" in change.how for change in fitted.changes)


def test_the_head_of_a_class_follows_its_name(folders):
    """Axon is the second class now; soma is new."""
    model = load_pretrained(str(folders["one"]))
    labels = {"background": 0, "soma": 1, "Axon": 2, "ignore": 3}
    fitted = fit(model, described(labels=labels))
    image = torch.randn(1, 1, *model.use.patch)
    with torch.no_grad():
        before = network_of(fit(model, described()), model, described())(image)
        after = network_of(fitted, model, described(labels=labels))(image)
    torch.testing.assert_close(after[:, [0, 2]], before[:, [0, 1]])
    assert not torch.allclose(after[:, 1], before[:, 2])
    changed = [change for change in fitted.changes if change.what != KEPT]
    assert changed and all(".seg_layers." in change.layer and change.what == ADAPTED for change in changed)
    assert "Axon carried over, soma new" in changed[0].how


@pytest.mark.parametrize(("kind", "dataset"), [
    ("one", described(labels={"background": 0, "soma": 1, "vessel": 2})),
    ("one", described(labels=REGIONS, regions_class_order=[1, 2])),
    ("regions", described(labels={"background": 0, "cell": 1, "nucleus": 2})),
])
def test_heads_without_a_trained_class_start_anew(folders, kind, dataset):
    model = load_pretrained(str(folders[kind]))
    fitted = fit(model, dataset)
    heads = [change for change in fitted.changes if ".seg_layers." in change.layer]
    assert heads and all(change.what == NEW for change in heads)
    assert all(change.what == KEPT for change in fitted.changes if change not in heads)
    again = fit(model, dataset).state
    assert all(torch.equal(weights, again[name]) for name, weights in fitted.state.items()), "whatever was drawn before"
    network_of(fitted, model, dataset)


def test_regions_follow_their_names(folders):
    model = load_pretrained(str(folders["regions"]))
    fitted = fit(model, described(labels={"background": 0, "nucleus": [2], "cell": [1, 2]}, regions_class_order=[2, 1]))
    heads = [change for change in fitted.changes if ".seg_layers." in change.layer]
    assert all(change.what == ADAPTED for change in heads)
    name = "decoder.seg_layers.0.weight"
    assert torch.equal(fitted.state[name], model.weights[name].flip(0))


def test_half_precision_becomes_single_and_shared_weights_stay_shared(folders):
    model = load_pretrained(str(folders["one"]))
    half = {name: weights.half() for name, weights in model.weights.items()}
    fitted = fit(type(model)(**{**vars(model), "weights": half}), described(3))
    assert {weights.dtype for weights in fitted.state.values()} == {torch.float32}
    first = "encoder.stages.0.0.convs.0.conv.weight"
    same = [name for name in fitted.state if fitted.state[name] is fitted.state[first]]
    assert "decoder.encoder.stages.0.0.convs.0.all_modules.0.weight" in same
    assert [change.layer for change in fitted.changes].count(first) == 1 and not {*same[1:]} & {change.layer for change in fitted.changes}
    table = layer_table(fitted.changes)
    assert f"{len(fitted.changes)} layers: {len(fitted.changes) - 1} kept, 1 adapted, 0 re-initialised" in table


@pytest.mark.parametrize("trainer", ["nnUNetTrainerAxialAttention", "nnUNetTrainerResidualUNet", "nnUNetTrainerDropoutUNet"])
def test_networks_of_this_plugin_go_into_the_plans_and_fit_another_patch(trainer):
    """A model of a trainer that builds its own network is trained on by the trainer for fine-tuning, at another patch."""
    plans = make_plans("3d_fullres", 1, (12, 32, 16))
    written = with_trained_network(plans, "3d_fullres", trainer)
    assert plans["configurations"]["3d_fullres"]["architecture"]["network_class_name"] == PLAIN_UNET
    other = fitted_plans(written, "3d_fullres", source=("a",), target=("a", "b"), patch=(24, 16, 16), spacing=(2, 1, 0.5))
    use, wanted = (use_of(one, "3d_fullres", described(channels)) for one, channels in ((written, 1), (other, 2)))
    assert (use.patch, wanted.patch) == ((12, 32, 16), (24, 16, 16))
    assert other["configurations"]["3d_fullres"]["spacing"] == [2, 1, 0.5]

    trained = build_network(plans, "3d_fullres", trainer, 1, 3).eval()
    state, _ = transfer_weights(trained.state_dict(), lambda channels, heads: build_network(other, "3d_fullres", TUNING, channels, heads),
                                source=use, target=wanted)
    tuned = build_network(other, "3d_fullres", TUNING, 2, 3).eval()
    tuned.load_state_dict(state)
    image = torch.randn(1, 1, *wanted.patch)
    with torch.no_grad():
        torch.testing.assert_close(tuned(image.expand(-1, 2, -1, -1, -1)), trained(image), rtol=1e-4, atol=1e-5)


class Table(torch.nn.Module):
    """A network with learnt positions, for patches of (8, 8) or (16, 8), in tokens of 4 x 4."""

    def __init__(self, channels: int, heads: int, patch: tuple[int, int]) -> None:
        super().__init__()
        self.pos_embed = torch.nn.Parameter(torch.zeros(1, math.prod(patch) // 16, 5))
        self.first = torch.nn.Conv2d(channels, 5, 4, stride=4)
        self.register_buffer("pos_angles", torch.zeros(math.prod(patch)))
        self.decoder = torch.nn.ModuleDict({"seg_layers": torch.nn.ModuleList([torch.nn.Conv2d(5, heads, 1)])})


def test_learnt_positions_are_interpolated_to_another_patch(folders):
    use = load_pretrained(str(folders["flat"])).use
    small, large = (type(use)(use.channels, use.heads, False, patch) for patch in ((8, 8), (16, 8)))
    trained = Table(1, 3, small.patch)
    # rows 0 and 1 of the grid
    trained.pos_embed.data = torch.tensor([0.0, 0, 1, 1])[None, :, None].expand(1, 4, 5).clone()
    state, changes = transfer_weights(trained.state_dict(), lambda channels, heads: Table(channels, heads, large.patch), source=small,
                                      target=large)
    grid = state["pos_embed"].reshape(4, 2, 5)
    assert (grid == grid[:, :1, :1]).all() and grid[:, 0, 0].tolist() == [0, 0.25, 0.75, 1]
    how = {change.layer: change.how for change in changes}
    assert how["pos_embed"] == "positions interpolated" and how["pos_angles"] == "a table of positions that is computed"


def test_tables_of_one_axis_are_interpolated_along_it():
    table = torch.arange(4.0).reshape(1, 1, 4, 1, 1).expand(1, 3, 4, 1, 1)
    longer = resized_positions(table, (1, 3, 8, 1, 1), source_patch=(4, 6, 6), target_patch=(8, 6, 6))
    assert longer.shape == (1, 3, 8, 1, 1)
    assert (longer.diff(dim=2) >= 0).all() and longer.mean() == table.mean()
    both = resized_positions(torch.ones(2, 3, 4), (2, 6, 5), source_patch=(3, 4), target_patch=(6, 5))
    assert both.shape == (2, 6, 5) and (both == 1).all()
    assert resized_positions(table, (1, 3, 8), source_patch=(4, 6, 6), target_patch=(8, 6, 6)) is None


def test_nnunet_loads_what_was_fitted(folders, tmp_path):
    """As -pretrained_weights does, and without code from the file."""
    model, dataset_json = load_pretrained(str(folders["one"])), described(2, {"background": 0, "soma": 1})
    fitted = fit(model, dataset_json)
    path = tmp_path / "fitted.pth"
    write_fitted_weights(path, fitted, model, model.plans, model.configuration, TUNING, dataset_json)
    network = network_of(fitted, model, dataset_json)
    for weights in network.parameters():
        torch.nn.init.zeros_(weights)
    with contextlib.redirect_stdout(io.StringIO()):
        load_pretrained_weights(network, path)
    for name, weights in network.state_dict().items():
        assert torch.equal(weights, fitted.state[name] if ".seg_layers." not in name else torch.zeros_like(weights)), name
    assert torch.load(path, weights_only=True)["trainer_name"] == TUNING
    report = json.loads(path.with_suffix(".json").read_text())
    assert report["sha256"] == model.sha256 and report["heads"] == ["background", "soma"]
    assert len(report["layers"]) == len(fitted.changes)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["fitted.json", "fitted.pth"]
    assert load_pretrained(str(path)).use.channels == ("channel 0", "channel 1"), "it has its plans with it"


def test_the_trainer_fits_the_network(folders):
    model = load_pretrained(str(folders["one"]))
    assert default_trainer(model, model.configuration) == TUNING
    pytest.importorskip("monai")
    single = type(model)(**{**vars(model), "plans": with_trained_network(model.plans, model.configuration, "nnUNetTrainerVNet")})
    assert default_trainer(single, single.configuration) == "nnUNetTrainerFineTuneSingleOutput"


# --- plans -----------------------------------------------------------------------------------------------------------------------------


def test_plans_normalise_every_channel():
    plans = make_plans("3d_fullres", 2, (12, 32, 16))
    chosen = plans["configurations"]["3d_fullres"]
    chosen["normalization_schemes"], chosen["use_mask_for_norm"] = ["CTNormalization", "ZScoreNormalization"], [False, True]
    plans["foreground_intensity_properties_per_channel"] = {"0": {"mean": 1.0}, "1": {"mean": 2.0}}
    four = fitted_plans(plans, "3d_fullres", source=("CT", "b"), target=("CT", "b", "CT", "d"))
    assert four["configurations"]["3d_fullres"]["normalization_schemes"] == ["CTNormalization", "ZScoreNormalization"] * 2
    assert four["configurations"]["3d_fullres"]["use_mask_for_norm"] == [False, True] * 2
    assert four["foreground_intensity_properties_per_channel"]["2"] == {"mean": 1.0}
    three = fitted_plans(plans, "3d_fullres", source=("CT", "b"), target=("x", "CT", "noNorm"))
    assert three["configurations"]["3d_fullres"]["normalization_schemes"] == ["ZScoreNormalization", "CTNormalization", "NoNormalization"]
    assert chosen["normalization_schemes"] == ["CTNormalization", "ZScoreNormalization"], "the given ones stay as they are"
    assert fitted_plans(plans, "3d_fullres", source=("CT", "b"), target=("c", "d")) == plans


def test_spacing_turns_as_the_plans_do():
    plans = make_plans("3d_fullres", 1, (12, 32, 16)) | {"transpose_forward": [2, 0, 1]}
    turned = fitted_plans(plans, "3d_fullres", source=("a",), target=("a",), spacing=(1, 2, 3))
    assert turned["configurations"]["3d_fullres"]["spacing"] == [3, 1, 2]
    flat = make_plans("2d", 1, (32, 32))
    assert fitted_plans(flat, "2d", source=("a",), target=("a",), spacing=(1, 2, 3))["configurations"]["2d"]["spacing"] == [2, 3]


# --- schedule, early end, heads --------------------------------------------------------------------------------------------------------


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


# --- the command -----------------------------------------------------------------------------------------------------------------------


class Threads:
    """In place of the module multiprocessing, where nnU-Net makes a pool of it whose workers import everything again."""

    Pool = ThreadPool

    @classmethod
    def get_context(cls, method: str) -> type[Threads]:
        return cls


@pytest.fixture
def in_process(monkeypatch) -> list[str]:
    """nnU-Net's commands run in this process; the lines that ran."""
    from nnunetv2.evaluation import evaluate_predictions
    from nnunetv2.experiment_planning import plan_and_preprocess_entrypoints as planning
    from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor
    from nnunetv2.experiment_planning.plans_for_pretraining.move_plans_between_datasets import entry_point_move_plans_between_datasets
    from nnunetv2.preprocessing.preprocessors import default_preprocessor
    from nnunetv2.run.run_training import run_training_entry
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module

    for module in (evaluate_predictions, fingerprint_extractor, default_preprocessor, trainer_module):
        monkeypatch.setattr(module, "multiprocessing", Threads)
    extractor, extract = fingerprint_extractor.DatasetFingerprintExtractor, fingerprint_extractor.DatasetFingerprintExtractor.run

    def extract_from_few_voxels(self, **options) -> dict:
        self.num_foreground_voxels_for_intensitystats = 1000  # not 100 million
        return extract(self, **options)

    monkeypatch.setattr(extractor, "run", extract_from_few_voxels)
    monkeypatch.setattr(MetaLogger, "plot_progress_png", lambda self, folder: None)
    entries = {"nnUNetv2_move_plans_between_datasets": entry_point_move_plans_between_datasets,
               "nnUNetv2_extract_fingerprint": planning.extract_fingerprint_entry, "nnUNetv2_preprocess": planning.preprocess_entry,
               "nnUNetv2_train": run_training_entry}
    ran: list[str] = []

    def run(command, *, log, say, variables=None) -> None:
        ran.append(" ".join(command))
        threads = torch.get_num_threads()
        with pytest.MonkeyPatch.context() as patch, log.open("w") as stream, contextlib.redirect_stdout(stream):
            patch.setattr(sys, "argv", list(command))
            for name, value in (variables or {}).items():
                patch.setenv(name, value)
            entries[command[0]]()
        torch.set_num_threads(threads)

    monkeypatch.setattr("nnunet_neuro.models.finetune.run_command", run)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("NNNEURO_ITERATIONS", "1")
    monkeypatch.setenv("NNNEURO_VAL_ITERATIONS", "1")
    return ran


def write_dataset(raw: Path, *, channels: int = 2, labels: dict | None = None) -> Path:
    folder = raw / "Dataset321_Tuned"
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    rng = np.random.default_rng(0)
    for case in ("a", "b", "c"):
        mask = np.zeros((14, 20, 20), np.uint8)
        mask[3:7, 4:9, 4:9], mask[8:12, 10:16, 8:12] = 1, 2
        for channel in range(channels):
            image = SimpleITK.GetImageFromArray(rng.normal(mask * 3, 1).astype(np.float32))
            SimpleITK.WriteImage(image, str(folder / "imagesTr" / f"{case}_{channel:04}.nii.gz"))
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(mask), str(folder / "labelsTr" / f"{case}.nii.gz"))
    (folder / "dataset.json").write_text(json.dumps(described(
        channels, labels or {"background": 0, "edge": 1, "soma": 2}, numTraining=3) | {"file_ending": ".nii.gz"}))
    (folder / "splits_final.json").write_text(json.dumps([{"train": ["a", "b"], "val": ["c"]}]))
    return folder


TUNE = ("-d", "321", "-device", "cpu", "--epochs", "1")


@pytest.mark.slow
def test_one_command_does_it_all_and_repeats_nothing(folders, nnunet_folders, in_process, capsys):
    write_dataset(nnunet_folders.raw)
    command = ["finetune", str(folders["one"]), *TUNE]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert [line.split()[0] for line in in_process] == [
        "nnUNetv2_move_plans_between_datasets", "nnUNetv2_extract_fingerprint", "nnUNetv2_preprocess", "nnUNetv2_train"]
    assert all(line in printed.err for line in in_process), "each is printed"
    assert "1 to 2 channels: repeated, divided by 2" in printed.err and "background, edge carried over, soma new" in printed.err
    results = nnunet_folders.results / "Dataset321_Tuned"
    fold = results / f"{TUNING}__nnUNetPlansTinyFromTiny__3d_fullres" / "fold_0"
    assert printed.out == f"{fold}\n"
    assert (fold / "validation" / "summary.json").is_file() and (fold / "checkpoint_final.pth").is_file()
    log = next(fold.glob("training_log*")).read_text()
    assert "Segmentation heads: those of" in log and "Learning rate: from 0.001 on (set by the trainer)" in log
    assert json.loads((fold.parent / "plans.json").read_text())["image_reader_writer"] == "SimpleITKIO", "the model's was another"
    assert (nnunet_folders.preprocessed / "Dataset321_Tuned" / "splits_final.json").is_file()

    in_process.clear()
    assert main(command) == 0 and in_process == []
    assert capsys.readouterr().err.count("done already") == 5

    (fold / "validation" / "summary.json").unlink()
    assert main(command) == 0
    assert [line.split()[0] for line in in_process] == ["nnUNetv2_train"] and in_process[0].endswith("--val")
    in_process.clear()
    (fold / "checkpoint_final.pth").rename(fold / "checkpoint_latest.pth")
    assert main([*command[:-1], "2"]) == 0
    assert len(in_process) == 1 and in_process[0].endswith("--c")
    assert torch.load(fold / "checkpoint_final.pth", weights_only=False)["current_epoch"] == 2

    capsys.readouterr()
    assert main(["finetune", str(folders["two"]), *TUNE]) == 2, "another model for the same plans"
    assert "is there already, made from another model" in capsys.readouterr().err


@pytest.fixture
def broken(folders, tmp_path) -> Path:
    """A checkpoint without the plans that belong to it."""
    content = torch.load(folders["one"] / "fold_0" / "checkpoint_final.pth", weights_only=False)
    content["init_args"] = {name: value for name, value in content["init_args"].items() if name != "plans"}
    torch.save(content, tmp_path / "alone.pth")
    return tmp_path / "alone.pth"


@pytest.mark.parametrize(("source", "options", "sentence"), [
    ("no_such_model", (), "no model 'no_such_model' is listed"),
    ("nowhere/checkpoint.pth", (), "no model nowhere/checkpoint.pth; expected a checkpoint"),
    ("one", ("-d", "999"), "there is no dataset '999'"),
    ("one", ("-c", "3d_lowres"), "have no configuration '3d_lowres', only 3d_fullres, 2d"),
    ("one", ("-c", "2d"), "is 3D, configuration 3d_fullres, and 2d is 2D"),
    ("one", ("-tr", "nnUNetTrainerNo"), "there is no trainer nnUNetTrainerNo"),
    ("one", ("-tr", "nnUNetTrainer"), "nnUNetTrainer does not read the number of epochs"),
    ("one", ("-tr", "nnUNetTrainerAttentionUNet"), "it is of another architecture"),
    ("one", ("--patch", "15,24,20"), "the network takes 3 axes of multiples of 2, 4, 4"),
    ("one", ("--patch", "16,24"), "the network takes 3 axes"),
    ("one", ("-p", "a__b"), "the new plans would be called 'a__b'"),
    ("one", ("-f", "first"), "the fold is 'first'"),
    ("other", (), "it is of another architecture: .* layers do not fit, such as .*, found .*, expected .*"),
    ("broken", (), "no plans that belong to the checkpoint"),
    ("empty", (), "has a checkpoint_final.pth; expected the folder"),
])
def test_bad_input_ends_in_one_sentence_and_leaves_nothing(source, options, sentence, folders, broken, nnunet_folders, tmp_path, capsys):
    write_dataset(nnunet_folders.raw)
    one = tmp_path / "one"
    both = tmp_path / "both"
    for folder in (one, both):
        tiny_model(folder)
    flat = json.loads((folders["flat"] / "plans.json").read_text())
    plans = json.loads((one / "plans.json").read_text())
    plans["configurations"]["2d"] = flat["configurations"]["2d"]
    (one / "plans.json").write_text(json.dumps(plans))
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 6, 12]
    (both / "plans.json").write_text(json.dumps(plans))
    (tmp_path / "empty").mkdir()
    given = {"one": one, "other": both, "broken": broken, "empty": tmp_path / "empty"}.get(source, source)
    assert main(["finetune", str(given), *TUNE, *options]) == 2
    printed = capsys.readouterr()
    (line,) = [line for line in printed.err.splitlines() if line.startswith("nnneuro_models: error: ")]
    assert re.search(sentence, line) and printed.out == "" and printed.err.endswith(line + "\n")
    assert not list(nnunet_folders.preprocessed.iterdir()) and not list(nnunet_folders.results.iterdir())


@pytest.mark.parametrize(("content", "sentence"), [
    ("{", "dataset.json is no JSON"), ("{}", "lacks channel_names or labels"), (None, "expected a raw dataset of nnU-Net"),
])
def test_bad_descriptions_are_refused(content, sentence, folders, nnunet_folders, capsys):
    path = write_dataset(nnunet_folders.raw) / "dataset.json"
    path.unlink() if content is None else path.write_text(content)
    assert main(["finetune", str(folders["one"]), *TUNE]) == 2
    assert sentence in capsys.readouterr().err and not list(nnunet_folders.results.iterdir())


def test_plans_that_name_a_program_are_refused(folders, tmp_path):
    folder = shutil.copytree(folders["one"], tmp_path / folders["one"].name)
    plans = json.loads((folder / "plans.json").read_text())
    for configuration in plans["configurations"].values():
        configuration["architecture"]["arch_kwargs"]["nonlin"] = "subprocess.Popen"
    (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(ValueError, match="'subprocess.Popen'; expected network parts"):
        load_pretrained(str(folder))


def test_a_dataset_without_images_or_with_another_split_is_refused(folders, nnunet_folders, in_process, capsys):
    raw = write_dataset(nnunet_folders.raw)
    preprocessed = nnunet_folders.preprocessed / raw.name
    preprocessed.mkdir()
    (preprocessed / "splits_final.json").write_text(json.dumps([{"train": ["a", "c"], "val": ["b"]}]))
    assert main(["finetune", str(folders["one"]), *TUNE]) == 2
    assert "splits the cases otherwise than" in capsys.readouterr().err
    for image in (raw / "imagesTr").iterdir():
        image.unlink()
    assert main(["finetune", str(folders["one"]), *TUNE]) == 2
    assert "no training images in" in capsys.readouterr().err and in_process == []


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
def test_missing_folders_are_named(variable, folders, nnunet_folders, monkeypatch, capsys):
    write_dataset(nnunet_folders.raw)
    monkeypatch.delenv(variable)
    assert main(["finetune", str(folders["one"]), *TUNE]) == 2
    assert f"the environment variable {variable} is not set; export {variable}=FOLDER" in capsys.readouterr().err
