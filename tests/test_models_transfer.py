"""Fine-tuning: what becomes of a model's weights and plans on another dataset."""

from __future__ import annotations

import contextlib
import io
import json
import math

import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

from nnunet_neuro.models.fitted_weights import build_network, default_trainer, fit_weights, write_fitted_weights
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
from tests.finetuning import TUNING, described
from tests.test_trainers_contract import make_plans
from tests.tiny_models import REGIONS

CPU = torch.device("cpu")


def network_of(fitted, model, dataset_json: dict, trainer: str = TUNING) -> torch.nn.Module:
    """The new network with the fitted weights, strictly loaded."""
    use = use_of(model.plans, model.configuration, dataset_json)
    network = build_network(model.plans, model.configuration, trainer, len(use.channels), len(use.heads))
    network.load_state_dict(fitted.state)
    return network.eval()


def fit(model, dataset_json: dict, trainer: str = TUNING):
    return fit_weights(model, model.plans, model.configuration, trainer, dataset_json)


@pytest.mark.parametrize("kind", ["one", "flat"])
@pytest.mark.parametrize("channels", [2, 3])
def test_equal_channels_give_the_output_of_the_one_channel(small_models, kind, channels):
    model = load_pretrained(str(small_models[kind]))
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


def test_channels_follow_their_names(small_models):
    model = load_pretrained(str(small_models["two"]))
    fitted = fit(model, described(("channel 1", "channel 0")))
    image = torch.randn(1, 2, *model.use.patch)
    with torch.no_grad():
        before = network_of(fit(model, described(2)), model, described(2))(image)
        after = network_of(fitted, model, described(2))(image.flip(1))
    torch.testing.assert_close(after, before)
    assert any("order channel 1, channel 0" in change.how for change in fitted.changes)


def test_the_head_of_a_class_follows_its_name(small_models):
    """Axon is the second class now; soma is new."""
    model = load_pretrained(str(small_models["one"]))
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
def test_heads_without_a_trained_class_start_anew(small_models, kind, dataset):
    model = load_pretrained(str(small_models[kind]))
    fitted = fit(model, dataset)
    heads = [change for change in fitted.changes if ".seg_layers." in change.layer]
    assert heads and all(change.what == NEW for change in heads)
    assert all(change.what == KEPT for change in fitted.changes if change not in heads)
    again = fit(model, dataset).state
    assert all(torch.equal(weights, again[name]) for name, weights in fitted.state.items()), "whatever was drawn before"
    network_of(fitted, model, dataset)


def test_regions_follow_their_names(small_models):
    model = load_pretrained(str(small_models["regions"]))
    fitted = fit(model, described(labels={"background": 0, "nucleus": [2], "cell": [1, 2]}, regions_class_order=[2, 1]))
    heads = [change for change in fitted.changes if ".seg_layers." in change.layer]
    assert all(change.what == ADAPTED for change in heads)
    name = "decoder.seg_layers.0.weight"
    assert torch.equal(fitted.state[name], model.weights[name].flip(0))


def test_half_precision_becomes_single_and_shared_weights_stay_shared(small_models):
    model = load_pretrained(str(small_models["one"]))
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


def test_learnt_positions_are_interpolated_to_another_patch(small_models):
    use = load_pretrained(str(small_models["flat"])).use
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


def test_nnunet_loads_what_was_fitted(small_models, tmp_path):
    """As -pretrained_weights does, and without code from the file."""
    model, dataset_json = load_pretrained(str(small_models["one"])), described(2, {"background": 0, "soma": 1})
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


def test_the_trainer_fits_the_network(small_models):
    model = load_pretrained(str(small_models["one"]))
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
