"""Plans files for a chosen encoder and decoder of `nnUNetTrainerTimmUNet`."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import torch

from nnunet_neuro.networks.plans import with_architecture
from nnunet_neuro.networks.timm_unet import IMAGENET, TimmUNet, chosen_architecture, timm_architecture

CONFIGURATION = "2d"


def write_timm_plans(dataset: str, *, encoder: str, decoder: str, encoder_weights: str | None = None, source: str = "nnUNetPlans",
                     name: str | None = None) -> Path:
    """Write a plans file that differs from an existing one in the network of the configuration 2d.

    Patch, batch size and preprocessed data stay those of the source; other configurations are left out. The network is tried with one
    patch of the plan before anything is written.

    Args:
        dataset: id or name, already planned.
        encoder: name of a timm model.
        decoder: a key of `timm_unet.DECODERS`.
        encoder_weights: None for random ones, "imagenet", or a file.
        source: name of the existing plans.
        name: of the new ones; by default the source's with encoder, decoder and weights behind it.

    Returns:
        Path of the new file.

    Raises:
        ValueError: encoder, decoder and patch do not fit together, or the name cannot be used.
        OSError: the source or the weights file is missing, or a file of this name says something else.
    """
    if not os.environ.get("nnUNet_preprocessed"):
        raise ValueError("the environment variable nnUNet_preprocessed is not set; export nnUNet_preprocessed=FOLDER")
    name = name or _default_name(source, encoder, decoder, encoder_weights)
    if "__" in name or name == source:
        raise ValueError(f"the plans cannot be named {name!r}, expected another name than {source!r}, without a double underscore, at "
                         f"which nnU-Net splits the names of its folders")
    folder = Path(os.environ["nnUNet_preprocessed"]) / _dataset_name(dataset)
    if encoder_weights not in (None, IMAGENET):
        encoder_weights = str(_existing_file(Path(encoder_weights)).resolve())
    plans = _timm_plans(_read_plans(folder / f"{source}.json"), chosen_architecture(encoder, decoder, encoder_weights), name)
    _try_out(plans)
    return _write_once(folder / f"{name}.json", plans)


def _default_name(source: str, encoder: str, decoder: str, encoder_weights: str | None) -> str:
    parts = [source, encoder, decoder, *([Path(encoder_weights).stem] if encoder_weights else [])]
    # nnU-Net splits the names of its folders at a double underscore
    return re.sub("__+", "_", "_".join(parts).replace(".", "-"))


def _dataset_name(dataset: str) -> str:
    from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

    try:
        return maybe_convert_to_dataset_name(dataset if dataset.startswith("Dataset") else int(dataset))
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"nnU-Net finds no dataset {dataset!r} in its three folders, {os.environ['nnUNet_preprocessed']} and others; give "
                         f"the id or the name of one that is planned") from error


def _existing_file(file: Path) -> Path:
    if not file.is_file():
        raise FileNotFoundError(f"no file {file} with encoder weights; expected {IMAGENET!r} or an existing file")
    return file


def _read_plans(file: Path) -> dict:
    if not file.is_file():
        found = sorted(path.stem for path in file.parent.glob("*Plans*.json"))
        raise FileNotFoundError(f"no plans {file}, found {', '.join(found) or 'none'}; plan the dataset first, with "
                                f"nnUNetv2_plan_and_preprocess, or name its plans with --plans")
    plans = json.loads(file.read_text(encoding="utf-8"))
    if CONFIGURATION not in plans["configurations"]:
        raise ValueError(f"the plans {file} have no configuration {CONFIGURATION}, only {', '.join(plans['configurations'])}; timm has "
                         f"only 2D encoders")
    return plans


def _timm_plans(plans: dict, architecture: dict, name: str) -> dict:
    plans = {**plans, "plans_name": name, "configurations": {CONFIGURATION: plans["configurations"][CONFIGURATION]}}
    return with_architecture(plans, CONFIGURATION, lambda _, patch_size: timm_architecture(architecture, patch_size))


def _try_out(plans: dict) -> None:
    configuration = plans["configurations"][CONFIGURATION]
    patch_size = configuration["patch_size"]
    arguments = configuration["architecture"]["arch_kwargs"]
    network = TimmUNet(input_channels=1, num_classes=2, **arguments).eval()
    try:
        with torch.no_grad():
            network(torch.zeros(1, 1, *patch_size))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(f"encoder {arguments['encoder']} with decoder {arguments['decoder']} does not take patches of "
                         f"{' x '.join(map(str, patch_size))} ({error}); use another encoder or decoder") from error


def _write_once(file: Path, plans: dict) -> Path:
    if file.exists():
        if json.loads(file.read_text(encoding="utf-8")) != plans:
            raise FileExistsError(f"{file} exists and says something else; give another --name, or delete it if nothing was trained with "
                                  f"it")
        return file
    partial = file.with_suffix(".part")
    partial.write_text(json.dumps(plans, indent=4), encoding="utf-8")
    partial.rename(file)
    return file
