"""Trained models on their way out: nnU-Net's zip, weights, or a network that runs without nnU-Net, each compared after it was written."""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_neuro.models.catalogue import catalogue
from nnunet_neuro.models.export_formats import FORMATS, ExportFormat
from nnunet_neuro.models.installed import model_folder
from nnunet_neuro.predict.checkpoints import load_checkpoint
from nnunet_neuro.predict.model import CHECKPOINT, TrainedModel, load_model

ZIP = "zip"
# of the logits, in parts of the largest one where that is above 1
TOLERANCE = 1e-4
_DATASET = re.compile(r"Dataset\d{3}_.+")


def export_model(source: str | Path, out: str | Path, *, file_format: str, folds: Sequence[int | str] | None = None,
                 say: Callable[[str], None]) -> list[Path]:
    """Write a trained model to a file, read the file again and compare what it computes.

    The network of every format has a single output, whatever deep supervision it was trained with. ONNX and TorchScript take a patch of
    the plan, (1, C, *patch); normalisation, windows and mirroring are nnU-Net's and not part of them.

    Args:
        source: a name of the catalogue, a model folder, or id or name of a dataset in nnUNet_results that has one model.
        out: the file; with several folds, which only a zip holds together, `_fold_N` is added to the name of each.
        file_format: "zip" or a key of `export_formats.FORMATS`.
        folds: numbers, or "all"; None for every trained one.
        say: takes the largest difference of each file.

    Returns:
        The files.

    Raises:
        OSError: no such model, or a file that exists already.
        ValueError: a model that cannot be loaded, a package that is missing, or a file that computes something else; nothing is left.
    """
    if file_format != ZIP and file_format not in FORMATS:
        raise ValueError(f"there is no format {file_format!r}; choose of {', '.join([ZIP, *FORMATS])}")
    if file_format != ZIP:
        FORMATS[file_format].require()
    model, out = load_model(find_model(source), folds=folds), Path(out)
    one_file = file_format == ZIP or len(model.folds) == 1
    finals = [out] if one_file else [out.with_name(f"{out.stem}_fold_{fold}{out.suffix}") for fold in model.folds]
    for final in finals:
        if final.exists():
            raise FileExistsError(f"{final} exists; remove it, or give another name")
    out.parent.mkdir(parents=True, exist_ok=True)
    image = torch.randn(1, len(model.channels), *model.configuration.patch_size, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory(prefix=".exporting-", dir=out.parent) as scratch:
        made = [Path(scratch, final.name) for final in finals]
        if file_format == ZIP:
            _write_zip(model, made[0])
        for number, fold in enumerate(model.folds):
            network = _network(model, number)
            if file_format == ZIP:
                logits = _logits_of_zip(made[0], model, fold, image, Path(scratch))
            else:
                logits = _written_and_read(FORMATS[file_format], network, model, fold, image, made[number])
            _compare(network, logits, image, f"fold {fold} as {file_format}", say)
        for path, final in zip(made, finals):
            os.replace(path, final)
    return finals


def find_model(source: str | Path) -> Path:
    """The model folder that a user names.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a dataset with several models.
    """
    path = Path(source)
    if (path / "plans.json").is_file():
        return path.resolve()
    if str(source) in catalogue():
        return model_folder(str(source))
    results = os.environ.get("nnUNet_results")
    pattern = f"Dataset{int(str(source)):03d}_*" if str(source).isdecimal() else str(source)
    found = []
    if results and re.fullmatch(r"[\w.*+-]+", pattern):
        found = sorted(plans.parent for plans in Path(results).glob(f"{pattern}/*__*__*/plans.json"))
    if not found:
        raise FileNotFoundError(f"no model {source}; expected a folder TRAINER__PLANS__CONFIGURATION, one that nnneuro_models list shows "
                                f"({', '.join(sorted(catalogue()))}), or a dataset with a model in nnUNet_results ({results or 'not set'})")
    if len(found) > 1:
        raise ValueError(f"{source} has {len(found)} models; name the folder of one: {', '.join(map(str, found))}")
    return found[0]


def _network(model: TrainedModel, number: int) -> nn.Module:
    """With the weights of the fold of that number, in 32 bits."""
    network = model.build_network().float().eval()
    try:
        network.load_state_dict(model.parameters[number])
    except RuntimeError as error:
        first = (str(error).splitlines() + [""])[1].strip() or str(error)
        raise ValueError(f"the weights of fold {model.folds[number]} in {model.folder} do not fit the network that plans.json describes "
                         f"({first[:300]}); copy the plans that belong to them") from error
    return network


def _written_and_read(chosen: ExportFormat, network: nn.Module, model: TrainedModel, fold: int | str, image: Tensor, path: Path) -> Tensor:
    try:
        with torch.no_grad():
            chosen.write(network, image, path, _metadata(model, fold))
            return chosen.compute(path, model.build_network().float().eval(), image)
    except OSError:
        raise
    except Exception as error:  # torch, ONNX and its runtime each have their own
        text = " ".join(str(error).split())[:200]
        raise ValueError(f"the network in {model.folder} cannot be written to {path.suffix or path.name} ({type(error).__name__}: {text}); "
                         "choose another format") from error


def _metadata(model: TrainedModel, fold: int | str) -> dict[str, Any]:
    configuration = model.configuration
    return {
        "dataset": model.plans.dataset_name, "trainer": model.trainer_name, "plans": model.plans.plans_name, "fold": fold,
        "channels": list(model.channels), "labels": model.dataset_json["labels"], "patch_size": list(configuration.patch_size),
        "spacing": list(configuration.spacing), "transpose_forward": list(model.plans.transpose_forward),
        "normalization_schemes": list(configuration.normalization_schemes),
        "intensities": model.plans.foreground_intensity_properties_per_channel, "output": "logits",
    }


def _compare(network: nn.Module, found: Tensor, image: Tensor, what: str, say: Callable[[str], None]) -> None:
    with torch.no_grad():
        expected = network(image)
    if found.shape != expected.shape:
        raise ValueError(f"{what} gives an output of shape {tuple(found.shape)} instead of {tuple(expected.shape)}; nothing was written")
    largest = float((found.float() - expected).abs().max())
    allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
    if not largest <= allowed:  # also where it is no number
        raise ValueError(f"{what} computes something else than the network: the logits differ by {largest:.2g}, expected at most "
                         f"{allowed:.2g}; nothing was written, choose another format")
    say(f"{what}: largest difference of the logits {largest:.2g} on a patch of {' x '.join(map(str, image.shape[2:]))}")


def _write_zip(model: TrainedModel, path: Path) -> None:
    """nnU-Net's own zip; a model without its training's figures and scores, which nnU-Net's function wants, is packed the same way."""
    if len(model.folder.name.split("__")) != 3:
        raise ValueError(f"the folder {model.folder} is not named TRAINER__PLANS__CONFIGURATION, by which nnU-Net finds a model; rename it")
    trainer, plans, configuration = model.folder.name.split("__")
    dataset = model.folder.parent.name if _DATASET.fullmatch(model.folder.parent.name) else model.plans.dataset_name
    wanted = ["dataset_fingerprint.json", *(f"fold_{fold}/{name}" for fold in model.folds for name in ("progress.png",
                                                                                                      "validation/summary.json"))]
    if model.folder.parent.name == dataset and all((model.folder / name).is_file() for name in wanted):
        from nnunetv2.model_sharing.model_export import export_pretrained_model

        with _results(model.folder.parent.parent), contextlib.redirect_stdout(io.StringIO()):
            export_pretrained_model(dataset, str(path), (configuration,), trainer, plans, model.folds, save_checkpoints=(CHECKPOINT,))
        return
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("plans.json", "dataset.json", *(f"fold_{fold}/{CHECKPOINT}" for fold in model.folds), *wanted):
            if (model.folder / name).is_file():
                archive.write(model.folder / name, f"{dataset}/{model.folder.name}/{name}")


@contextlib.contextmanager
def _results(folder: Path) -> Iterator[None]:
    """With nnU-Net's results folder there, which its functions take from the environment."""
    before = os.environ.get("nnUNet_results")
    os.environ["nnUNet_results"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["nnUNet_results"]
        else:
            os.environ["nnUNet_results"] = before


def _logits_of_zip(path: Path, model: TrainedModel, fold: int | str, image: Tensor, scratch: Path) -> Tensor:
    with zipfile.ZipFile(path) as archive:
        member = next(name for name in archive.namelist() if name.endswith(f"{model.folder.name}/fold_{fold}/{CHECKPOINT}"))
        checkpoint = Path(archive.extract(member, scratch / "read"))
    network = model.build_network().float().eval()
    network.load_state_dict(load_checkpoint(checkpoint)["network_weights"])
    checkpoint.unlink()
    with torch.no_grad():
        return network(image)
