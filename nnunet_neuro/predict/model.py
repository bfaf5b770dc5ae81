"""A trained nnU-Net model: its folder, what the plans say, and predictors of nnU-Net's own with its networks in them."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.label_handling.label_handling import LabelManager, determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_neuro.predict.checkpoints import load_checkpoint
from nnunet_neuro.predict.options import PredictOptions
from nnunet_neuro.predict.plan_parts import check_plans

CHECKPOINT = "checkpoint_final.pth"


@dataclass(frozen=True)
class TrainedModel:
    """What a folder of a trained nnU-Net model holds, with its weights in memory.

    Attributes:
        folder: `Dataset.../TRAINER__PLANS__CONFIGURATION`.
        plans: nnU-Net's, of all configurations.
        configuration: nnU-Net's, the trained one.
        dataset_json: channels and labels.
        trainer_name: the class that builds the network.
        folds: numbers, or "all".
        parameters: weights of each fold, on the CPU.
        mirroring_axes: axes of a window that nnU-Net mirrors, None where it does not.
    """

    folder: Path
    plans: PlansManager
    configuration: ConfigurationManager
    dataset_json: dict[str, Any]
    trainer_name: str
    folds: tuple[int | str, ...]
    parameters: tuple[dict[str, torch.Tensor], ...]
    mirroring_axes: tuple[int, ...] | None

    @cached_property
    def label_manager(self) -> LabelManager:
        """nnU-Net's, which knows labels and regions."""
        return self.plans.get_label_manager(self.dataset_json)

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the input channels, in order."""
        names = self.dataset_json.get("channel_names") or self.dataset_json["modality"]
        return tuple(str(names[key]) for key in sorted(names, key=int))

    @property
    def heads(self) -> int:
        """Classes, background included, or regions: the channels that the network gives."""
        return self.label_manager.num_segmentation_heads

    @property
    def label_dtype(self) -> str:
        """nnU-Net's choice for a label volume."""
        return "uint8" if len(self.label_manager.foreground_labels) < 255 else "uint16"

    @property
    def classes(self) -> dict[str, int]:
        """The value that each class has in a label volume; of a region, the one that it is given last."""
        names = {name: label for name, label in self.dataset_json["labels"].items() if name != "ignore"}
        if not self.label_manager.has_regions:
            return {name: int(label) for name, label in names.items()}
        regions = [name for name, label in names.items() if label not in (0, [0])]
        return {"background": 0, **dict(zip(regions, map(int, self.label_manager.regions_class_order)))}

    @property
    def is_2d(self) -> bool:
        """Whether the network sees one slice at a time."""
        return len(self.configuration.patch_size) == 2

    @property
    def patch(self) -> tuple[int, int, int]:
        """Voxels of a window in the order of the transposed axes; 1 along the first one for a 2D configuration."""
        return (1,) * self.is_2d + tuple(map(int, self.configuration.patch_size))

    @cached_property
    def hash(self) -> str:
        """SHA-256 over plans, dataset.json and the weights, whatever else is in the checkpoints."""
        digest = hashlib.sha256()
        for content in (self.plans.plans, self.dataset_json, list(self.folds), self.mirroring_axes, self.trainer_name):
            digest.update(json.dumps(content, sort_keys=True).encode())
        for parameters in self.parameters:
            for name in sorted(parameters):
                tensor = parameters[name].detach().contiguous()
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def check_channels(self, count: int) -> None:
        """Refuse an input of another number of channels.

        Raises:
            ValueError: it is another one.
        """
        if count != len(self.channels):
            raise ValueError(f"the input has {count} channel{'s' * (count != 1)}, but the model in {self.folder} was trained with "
                             f"{len(self.channels)} ({', '.join(self.channels)}); give one volume for each, in this order")

    def build_network(self) -> torch.nn.Module:
        """The network with untrained weights, as the trainer's class builds it; without deep supervision.

        Raises:
            ValueError: the trainer's class is not installed, or needs a package that is not.
        """
        build = _trainer_class(self.trainer_name, self.folder).build_network_architecture
        heads = self.heads
        channels = determine_num_input_channels(self.plans, self.configuration, self.dataset_json)
        configuration = self.configuration
        if "plans_manager" in inspect.signature(build).parameters:
            return build(self.plans, configuration, channels, heads, enable_deep_supervision=False)
        return build(configuration.network_arch_class_name, configuration.network_arch_init_kwargs,  # trainers for nnU-Net before 2.7
                     configuration.network_arch_init_kwargs_req_import, channels, heads, enable_deep_supervision=False)

    def predictors(self, options: PredictOptions) -> tuple[nnUNetPredictor, ...]:
        """One predictor of nnU-Net for each fold, ready on the device.

        Raises:
            ValueError: weights that do not fit the network, a trainer that is not there, or a device that is not.
        """
        device = usable_device(options.device)
        predictors = []
        for fold, parameters in zip(self.folds, self.parameters):
            network = self.build_network()
            _load_weights(network, parameters, self.folder, fold)
            network = network.to(device).eval()
            if options.compile:
                network = _compiled(network, device)
            with contextlib.redirect_stdout(io.StringIO()):  # remarks about the CPU
                predictor = nnUNetPredictor(options.step, use_mirroring=options.mirroring, device=device, allow_tqdm=False)
                predictor.manual_initialization(network, self.plans, self.configuration, None, self.dataset_json, self.trainer_name,
                                                self.mirroring_axes)
            predictors.append(predictor)
        return tuple(predictors)


def load_model(folder: str | Path, *, folds: Sequence[int | str] | None = None, checkpoint: str = CHECKPOINT,
               allow_code: bool = False) -> TrainedModel:
    """Load a trained model without running code from its files.

    Args:
        folder: what `nnUNetv2_train` wrote, `Dataset.../TRAINER__PLANS__CONFIGURATION`, with `fold_0`, ... in it.
        folds: numbers, or "all"; None for every numbered fold that has the checkpoint, or `fold_all` where that is the only one.
        checkpoint: name of the file in each fold's folder.
        allow_code: also load checkpoints that need code to be run, and plans that name other things than network parts of known
            packages; only for files whose origin is trusted.

    Raises:
        FileNotFoundError: no such folder, plans, dataset.json, fold or checkpoint.
        ValueError: a file that is damaged or needs code, folds that do not belong together, or a cascade.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no model folder {folder}; expected what nnUNetv2_train wrote, with plans.json and fold_0 in it")
    plans, dataset_json = _read_json(folder / "plans.json"), _read_json(folder / "dataset.json")
    if not allow_code:
        check_plans(plans, folder / "plans.json")
    chosen = _choose_folds(folder, folds, checkpoint)
    contents = [load_checkpoint(folder / f"fold_{fold}" / checkpoint, allow_code=allow_code) for fold in chosen]
    _check_folds(folder, chosen, contents)
    first = contents[0]
    axes = first.get("inference_allowed_mirroring_axes")
    manager, configuration = _configuration(folder, plans, first["init_args"]["configuration"])
    return TrainedModel(folder, manager, configuration, dataset_json, first["trainer_name"], chosen,
                        tuple(content["network_weights"] for content in contents), None if axes is None else tuple(axes))


def usable_device(name: str) -> torch.device:
    """The device of that name, after a first number was put there.

    Raises:
        ValueError: it is not there, or cannot be used.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"the device {name!r} cannot be used ({str(error).splitlines()[0]}); expected cpu, cuda, cuda:1, ... or mps, one "
                         "that this machine has") from error
    return device


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}; expected the folder of a trained model that nnUNetv2_train wrote, with "
                                "plans.json, dataset.json and fold_0 in it")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); copy it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object; copy it again")
    return content


def _choose_folds(folder: Path, wanted: Sequence[int | str] | None, checkpoint: str) -> tuple[int | str, ...]:
    there = {path.name.removeprefix("fold_") for path in folder.glob("fold_*") if path.is_dir()}
    complete = sorted(name for name in there if (folder / f"fold_{name}" / checkpoint).is_file())
    if wanted is None:
        wanted = sorted(int(name) for name in complete if name.isdigit()) or complete
        if not wanted:
            raise FileNotFoundError(f"no fold in {folder} has a {checkpoint}; {_has_folds(folder, there)}: train one to its end, or name "
                                    "another checkpoint")
    if not wanted:
        raise ValueError(f"no fold of {folder} was chosen; name at least one")
    names = ["all" if str(fold) == "all" else str(fold) for fold in wanted]
    for name in names:
        if name not in there:
            raise FileNotFoundError(f"no fold {name} in {folder}; {_has_folds(folder, there)}")
        if name not in complete:
            files = sorted(path.name for path in (folder / f"fold_{name}").glob("*.pth"))
            raise FileNotFoundError(f"no {checkpoint} in {folder / f'fold_{name}'}; it has {', '.join(files) or 'no checkpoint'}")
    return tuple(name if name == "all" else int(name) for name in names)


def _has_folds(folder: Path, there: set[str]) -> str:
    return f"it has {', '.join(f'fold_{name}' for name in sorted(there)) or 'no folder fold_...'}"


def _check_folds(folder: Path, folds: Sequence[int | str], contents: Sequence[dict[str, Any]]) -> None:
    kinds = {fold: (content["trainer_name"], content["init_args"].get("configuration")) for fold, content in zip(folds, contents)}
    if len(set(kinds.values())) > 1:
        listed = ", ".join(f"fold {fold}: {trainer} {configuration}" for fold, (trainer, configuration) in kinds.items())
        raise ValueError(f"the folds in {folder} were trained differently ({listed}); expected one trainer and configuration")


def _configuration(folder: Path, plans: dict[str, Any], name: str) -> tuple[PlansManager, ConfigurationManager]:
    manager = PlansManager(plans)
    try:
        configuration = manager.get_configuration(name)
        previous = configuration.previous_stage_name
        for needed in ("patch_size", "spacing", "normalization_schemes", "use_mask_for_norm"):
            getattr(configuration, needed)
    except Exception as error:  # nnU-Net looks into the plans without checking them
        raise ValueError(f"{folder / 'plans.json'} does not describe the configuration {name!r} that was trained "
                         f"({type(error).__name__}: {error}); copy the plans that belong to the checkpoints") from error
    if previous is not None:
        raise ValueError(f"the model in {folder} is the second stage of a cascade, which needs the whole prediction of {previous} as a "
                         "further input; use a model of another configuration, such as 3d_fullres")
    return manager, configuration


def _trainer_class(name: str, folder: Path) -> type:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net tells where it searches
            return recursive_find_trainer_class_by_name(name)
    except RuntimeError as error:
        raise ValueError(f"the model in {folder} was trained by {name}, which is not installed; install the package it comes from, or name "
                         "its folder in the environment variable nnUNet_extTrainer") from error


def _load_weights(network: torch.nn.Module, parameters: dict[str, torch.Tensor], folder: Path, fold: int | str) -> None:
    try:
        network.load_state_dict(parameters)
    except RuntimeError as error:
        first = (str(error).splitlines() + [""])[1].strip() or str(error)
        raise ValueError(f"the weights of fold {fold} in {folder} do not fit the network that plans.json describes ({first[:300]}); copy "
                         "the plans that belong to them, or install the version that trained them") from error


def _compiled(network: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    if device.type == "cpu":
        import torch._inductor.config

        torch._inductor.config.freezing = True  # weights become constants, which is where most of the gain comes from
    return torch.compile(network)
