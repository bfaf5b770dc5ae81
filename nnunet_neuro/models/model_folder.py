"""A model folder, `TRAINER__PLANS__CONFIGURATION`: what is in it, and whether its weights fit its plans; no code of it is run."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_neuro.predict.plan_parts import check_plans

if TYPE_CHECKING:
    import torch

    from nnunet_neuro.predict.model import TrainedModel

RECORD = "nnneuro_model.json"  # what an installed model came from, with the hashes of its files



def check_model(folder: Path, *, plan_level: bool = False) -> list[Path]:
    """Load every checkpoint of a model into the network that its plans describe, strictly; no code from the files is run.

    Args:
        folder: with plans.json, dataset.json and fold_0, ...
        plan_level: the network of the plans alone, whatever trainer the checkpoint names; else the one its trainer builds.

    Returns:
        The checkpoints.

    Raises:
        FileNotFoundError: a file that a model has is missing.
        ValueError: a file that is damaged, needs code, or holds weights of another network.
    """
    plans, dataset_json = _object_of(folder / "plans.json"), _object_of(folder / "dataset.json")
    check_plans(plans, folder / "plans.json")
    checkpoints = sorted(folder.glob("fold_*/*.pth"))
    if not checkpoints:
        raise FileNotFoundError(f"no checkpoint in {folder}; expected fold_0/checkpoint_final.pth or that of another fold")
    for checkpoint in checkpoints:
        _check_checkpoint(checkpoint, plans, dataset_json, plan_level)
    return checkpoints


def hashes_of(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a model folder by its path in there, in order; the record of the installation is left out."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files if path.name != RECORD}


def sha256_of(path: Path) -> str:
    """As 64 digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1024**2):
            digest.update(block)
    return digest.hexdigest()


def compare_hashes(folder: Path, expected: Mapping[str, str], *, remedy: str = "install it again with --overwrite") -> None:
    """Check the files of a model against their SHA-256; further files are ignored, unless they are checkpoints.

    Args:
        folder: the model folder.
        expected: SHA-256 by the path in there.
        remedy: what to do where a file is another one.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is another one.
    """
    for name, digest in expected.items():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no {name} in {folder}, which the model has; {remedy}")
        found = sha256_of(folder / name)
        if found != digest:
            raise ValueError(f"{folder / name} has the SHA-256 {found}, expected {digest}; {remedy}")
    further = {path.relative_to(folder).as_posix() for path in folder.glob("fold_*/*.pth")} - set(expected)
    if further:
        raise ValueError(f"{folder / min(further)} does not belong to the model; remove it, or {remedy}")


def recorded(folder: Path) -> dict[str, Any] | None:
    """What `install` wrote into a model folder; None where it did not."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("files"), dict) else None


def _check_checkpoint(path: Path, plans: dict[str, Any], dataset_json: dict[str, Any], plan_level: bool) -> None:
    from nnunet_neuro.predict.checkpoints import load_checkpoint

    content = load_checkpoint(path)
    weights = content["network_weights"]
    model = _model_of(path, content, plans, dataset_json)
    network = _plan_network(model) if plan_level else _network(model, path)
    try:
        network.load_state_dict(weights)
    except (RuntimeError, AttributeError, TypeError) as error:
        first = (str(error).splitlines() + [""])[1].strip() or str(error)
        raise ValueError(f"the weights in {path} do not fit the network of {path.parents[1] / 'plans.json'} ({first[:200]}); expected a "
                         "checkpoint that was trained with these plans") from error
    broken = next((name for name, value in weights.items() if not value.isfinite().all()), None)
    if broken:
        raise ValueError(f"{path} holds numbers in {broken} that are not finite; use another checkpoint of the training")


def _model_of(path: Path, content: dict[str, Any], plans: dict[str, Any], dataset_json: dict[str, Any]) -> TrainedModel:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnunet_neuro.predict.model import TrainedModel

    name = content["init_args"].get("configuration") if isinstance(content["init_args"], dict) else None
    folder = path.parents[1]
    try:
        manager = PlansManager(plans)
        model = TrainedModel(folder, manager, manager.get_configuration(name), dataset_json, str(content["trainer_name"]), (),
                             (content["network_weights"],), None)
        int(model.heads)
    except Exception as error:  # nnU-Net looks into the plans without checking them
        raise ValueError(f"{folder / 'plans.json'} and dataset.json do not describe the configuration {name!r} of {path} "
                         f"({type(error).__name__}: {error}); expected the files that belong to the checkpoint") from error
    if not isinstance(content["network_weights"], dict) or not all(hasattr(one, "isfinite") for one in content["network_weights"].values()):
        raise ValueError(f"{path} holds something else than weights; expected a checkpoint that nnU-Net v2 saved while training")
    return model


def _network(model: TrainedModel, path: Path) -> torch.nn.Module:
    if not re.fullmatch(r"[A-Za-z_]\w*", model.trainer_name):
        raise ValueError(f"{path} names the trainer {model.trainer_name!r}; expected the name of a class")
    try:
        return model.build_network()
    except ValueError:
        raise  # a trainer that is not installed
    except Exception as error:  # whatever wrong numbers lead to inside a network
        raise _no_network(model, error) from error


def _plan_network(model: TrainedModel) -> torch.nn.Module:
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

    try:
        channels = determine_num_input_channels(model.plans, model.configuration, model.dataset_json)
        return get_network_from_plans(
            model.configuration.network_arch_class_name, model.configuration.network_arch_init_kwargs,
            model.configuration.network_arch_init_kwargs_req_import, channels, model.heads, deep_supervision=False)
    except Exception as error:  # whatever wrong numbers lead to inside a network
        raise _no_network(model, error) from error


def _no_network(model: TrainedModel, error: Exception) -> ValueError:
    text = " ".join(str(error).split())[:200]
    return ValueError(f"{model.folder / 'plans.json'} describes no network that can be built ({type(error).__name__}: {text}); expected "
                      "the plans that belong to the checkpoint")


def _object_of(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}; expected a model folder with plans.json, dataset.json and fold_0")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}); copy it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object; copy it again")
    return content
