"""Model folders and inputs that cannot be used end with one sentence that says what to do."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_neuro.predict.block_predictor import BlockPredictor, first_pass
from nnunet_neuro.predict.model import load_model
from nnunet_neuro.predict.options import PredictOptions
from nnunet_neuro.predict.statistics import ChannelStatistics, VolumeStatistics
from nnunet_neuro.volumes.volume import full_region
from tests.tiny_models import REGIONS, change_checkpoint, tiny_model, volumes_of

IMAGE = np.random.default_rng(0).integers(1, 200, (1, 20, 30, 25)).astype(np.uint8)


class NeedsCode:
    """Leaves a trace when it is unpickled."""

    def __reduce__(self):
        return exec, ("import os; os.environ['NNNEURO_CODE_WAS_RUN'] = 'yes'",)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "model", folds=(0, 1))


def refusal(action, kind: type[Exception] = ValueError) -> str:
    with pytest.raises(kind) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_code_in_a_checkpoint_is_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNNEURO_CODE_WAS_RUN", "no")
    change_checkpoint(folder, logging=NeedsCode())
    message = refusal(lambda: load_model(folder))
    assert "checkpoint_final.pth needs code to be loaded" in message and "exec" in message and "allow code if you trust" in message
    import os

    assert os.environ["NNNEURO_CODE_WAS_RUN"] == "no"
    assert load_model(folder, allow_code=True).folds == (0, 1)
    assert os.environ["NNNEURO_CODE_WAS_RUN"] == "yes"


@pytest.mark.parametrize("place", ["network_class_name", "nonlin"])
def test_plans_that_name_a_program_are_not_loaded(folder: Path, place: str) -> None:
    """nnU-Net imports what the plans name, and calls it with arguments from the plans."""
    plans = json.loads((folder / "plans.json").read_text())
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    (architecture if place == "network_class_name" else architecture["arch_kwargs"])[place] = "subprocess.Popen"
    (folder / "plans.json").write_text(json.dumps(plans))
    message = refusal(lambda: load_model(folder))
    assert "'subprocess.Popen'" in message and "allow code if you trust" in message
    assert load_model(folder, allow_code=True).folds == (0, 1)  # nothing is built yet


def test_checkpoints_with_numbers_of_numpy_are_loaded(folder: Path) -> None:
    change_checkpoint(folder, logging={"losses": np.arange(3.0), "best": np.float32(1), "epochs": np.int64(3), "flags": np.array([True])})
    assert load_model(folder).folds == (0, 1)


def test_names_of_numpy_before_version_2_are_known(folder: Path) -> None:
    path = folder / "fold_0" / "checkpoint_final.pth"
    content = path.read_bytes()
    if b"cnumpy._core.multiarray" not in content:
        pytest.skip("this NumPy writes the old names itself")
    content = torch.load(path, weights_only=False)
    old = _OldNames()
    torch.save(content, path, pickle_module=old)
    assert b"cnumpy.core.multiarray" in path.read_bytes()
    assert load_model(folder).folds == (0, 1)


class _OldNames:
    """Stands in for the pickle module, and writes NumPy's names as they were."""

    class Pickler(pickle._Pickler):
        def save_global(self, obj, name=None):
            if getattr(obj, "__module__", "") == "numpy._core.multiarray":
                self.write(b"cnumpy.core.multiarray\n" + obj.__name__.encode() + b"\n")
                self.memoize(obj)
                return
            super().save_global(obj, name)

        dispatch = dict(pickle._Pickler.dispatch)

    def __getattr__(self, name: str):
        return getattr(pickle, name)


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    assert "no model folder" in refusal(lambda: load_model(tmp_path / "nowhere"), FileNotFoundError)
    message = refusal(lambda: load_model(folder, folds=[3]), FileNotFoundError)
    assert "no fold 3 in" in message and "it has fold_0, fold_1" in message
    assert "no fold all" in refusal(lambda: load_model(folder, folds=["all"]), FileNotFoundError)
    message = refusal(lambda: load_model(folder, checkpoint="checkpoint_best.pth", folds=[0]), FileNotFoundError)
    assert "no checkpoint_best.pth in" in message and "it has checkpoint_final.pth" in message
    assert "no fold in" in refusal(lambda: load_model(folder, checkpoint="checkpoint_best.pth"), FileNotFoundError)
    assert "name at least one" in refusal(lambda: load_model(folder, folds=[]))
    for name in ("dataset.json", "plans.json"):
        (folder / name).unlink()
        assert f"no {name} in" in refusal(lambda: load_model(folder), FileNotFoundError)


def test_folds_that_are_there_are_found(folder: Path) -> None:
    assert load_model(folder).folds == (0, 1)
    assert load_model(folder, folds=["1"]).folds == (1,)
    shutil.copytree(folder / "fold_0", folder / "fold_all")
    assert load_model(folder).folds == (0, 1), "nnU-Net leaves out the fold of all cases where there are others"
    shutil.rmtree(folder / "fold_0")
    shutil.rmtree(folder / "fold_1")
    assert load_model(folder).folds == ("all",)


def test_damaged_files(folder: Path) -> None:
    plans = (folder / "plans.json").read_text()
    for text, expected in (("{", "is no JSON"), ("[]", "holds no JSON object"), ("{}", "does not describe the configuration '3d_fullres'")):
        (folder / "plans.json").write_text(text)
        assert expected in refusal(lambda: load_model(folder))
    (folder / "plans.json").write_text(plans)
    checkpoint = folder / "fold_0" / "checkpoint_final.pth"
    whole = checkpoint.read_bytes()
    for content in (b"", b"no checkpoint", whole[: len(whole) // 2]):
        checkpoint.write_bytes(content)
        assert "checkpoint_final.pth is damaged or no checkpoint" in refusal(lambda: load_model(folder))
    torch.save({"state_dict": {}}, checkpoint)
    assert "lacks trainer_name, init_args, network_weights" in refusal(lambda: load_model(folder))


def test_models_that_do_not_fit_together(folder: Path) -> None:
    change_checkpoint(folder, 1, trainer_name="nnUNetTrainerNoMirroring")
    message = refusal(lambda: load_model(folder))
    assert "were trained differently (fold 0: nnUNetTrainer 3d_fullres, fold 1: nnUNetTrainerNoMirroring" in message
    change_checkpoint(folder, 0, trainer_name="nnUNetTrainerOfNobody")
    model = load_model(folder, folds=[0])
    message = refusal(lambda: model.predictors(PredictOptions()))
    assert "trained by nnUNetTrainerOfNobody, which is not installed" in message

    weights = torch.load(folder / "fold_1" / "checkpoint_final.pth", weights_only=False)["network_weights"]
    name = next(iter(weights))
    change_checkpoint(folder, 1, network_weights={**weights, name: weights[name][:1]})
    assert "weights of fold 1" in refusal(lambda: load_model(folder, folds=[1]).predictors(PredictOptions()))


def test_a_cascade_is_refused(folder: Path) -> None:
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["previous_stage"] = "3d_lowres"
    (folder / "plans.json").write_text(json.dumps(plans))
    assert "second stage of a cascade, which needs the whole prediction of 3d_lowres" in refusal(lambda: load_model(folder))


def test_inputs_that_do_not_fit_the_model(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder)
    two = volumes_of(np.concatenate([IMAGE, IMAGE]))
    assert "the input has 2 channels, but the model in" in refusal(lambda: first_pass(model, two))
    flat = volumes_of(IMAGE[:, 0])
    assert "expected (z, y, x)" in refusal(lambda: first_pass(model, flat))
    assert "voxel size of (1, -1, 1)" in refusal(lambda: first_pass(model, volumes_of(IMAGE), spacing=(1, -1, 1)))
    assert "has no voxel left at the plan's voxel size" in refusal(lambda: first_pass(model, volumes_of(IMAGE, (1e-3, 1, 1))))
    other = load_model(tiny_model(tmp_path / "other", norm="RGBTo01Normalization"))
    bright = volumes_of(IMAGE.astype(np.uint16) + 500)
    predictor = BlockPredictor(other, bright, first_pass(other, bright))
    message = refusal(lambda: predictor.predict(_whole_block(IMAGE.shape[1:])))
    assert "does not fit the model's RGBTo01Normalization" in message


def test_what_cannot_be_done_part_by_part(folder: Path) -> None:
    plans = json.loads((folder / "plans.json").read_text())
    configuration = plans["configurations"]["3d_fullres"]
    for changed, volumes, expected in (
        ({"normalization_schemes": ["MyNormalization"]}, volumes_of(IMAGE), "normalises channel channel 0 by MyNormalization"),
        ({"resampling_fn_data": "resample_torch_fornnunet"}, volumes_of(IMAGE, (2, 1, 1)), "resamples data by resample_torch_fornnunet"),
    ):
        (folder / "plans.json").write_text(json.dumps({**plans, "configurations": {"3d_fullres": {**configuration, **changed}}}))
        model = load_model(folder)
        statistics = VolumeStatistics(full_region(IMAGE.shape[1:], None), (ChannelStatistics(),))
        assert expected in refusal(lambda model=model, volumes=volumes, statistics=statistics: BlockPredictor(model, volumes, statistics))


@pytest.mark.parametrize(("choice", "message"), [({"step": 0}, "a step of 0"), ({"step": 1.5}, "a step of 1.5"), ({"batch": 0}, "a batch"),
                                                 ({"precision": "double"}, "expected one of auto, float32")])
def test_options_that_make_no_sense(choice: dict, message: str) -> None:
    assert message in refusal(lambda: PredictOptions(**choice))


def test_a_device_that_is_not_there(folder: Path) -> None:
    model = load_model(folder, folds=[0])
    for device in ("toaster", "cuda:99"):
        assert f"the device {device!r} cannot be used" in refusal(lambda device=device: model.predictors(PredictOptions(device=device)))


def test_the_hash_is_that_of_plans_and_weights(folder: Path) -> None:
    before = load_model(folder).hash
    change_checkpoint(folder, current_epoch=7)
    assert load_model(folder).hash == before, "what does not change the prediction does not change the hash"
    assert load_model(folder, folds=[0]).hash != before
    weights = torch.load(folder / "fold_1" / "checkpoint_final.pth", weights_only=False)["network_weights"]
    name = next(iter(weights))
    changed = weights[name].clone()
    changed.view(-1)[0] += 1e-6
    change_checkpoint(folder, 1, network_weights={**weights, name: changed})
    assert load_model(folder).hash != before


def test_classes_and_channels_have_names(tmp_path: Path) -> None:
    model = load_model(tiny_model(tmp_path, channels=12, labels=REGIONS))
    assert model.channels == tuple(f"channel {channel}" for channel in range(12))
    assert model.classes == {"background": 0, "cell": 1, "nucleus": 2} and model.heads == 2


def _whole_block(shape: tuple[int, ...]):
    from nnunet_neuro.predict.windows import block_grid

    return block_grid(shape, chunk=shape, size=shape)[0]
