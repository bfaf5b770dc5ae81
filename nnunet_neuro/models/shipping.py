"""A trained nnU-Net model made small enough to ship: weights in 16 bits that plain nnU-Net predicts with, and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_neuro.models.model_folder import check_model, hashes_of
from nnunet_neuro.models.seen_images import SEEN, seen_images

if TYPE_CHECKING:
    import torch

CHECKPOINT = "checkpoint_final.pth"
STOCK_TRAINER = "nnUNetTrainer"
# of dataset.json: where the data lay on the machine that trained, and what only training wants
_PRIVATE = ("provenance", "histogram_references")


def strip_checkpoint(source: str | Path, out: str | Path, folds: Sequence[int | str] = (0,), *, checkpoint: str = CHECKPOINT
                     ) -> dict[str, str]:
    """Make a folder to ship from a trained model: no optimizer state, no log, no paths, 16 bits, nnU-Net's own trainer.

    Weights that several names share are stored once. Of the training images only hashes remain, so that fine-tuning can tell which cases
    the model has seen. The network must be the one that the plans describe: one that a trainer builds by itself needs plans that name it
    before it can ship. A number that 16 bits cannot hold keeps its weights in 32.

    Args:
        source: `Dataset.../TRAINER__PLANS__CONFIGURATION`, with the folds in it.
        out: folder for `nnUNetTrainer__PLANS__CONFIGURATION`, usually `nnunet_neuro/checkpoints/NAME`.
        folds: numbers, or "all".
        checkpoint: file of each fold; it is called checkpoint_final.pth in the folder made.

    Returns:
        SHA-256 of each file by its path in the model folder, as `files` of an entry in models.json wants it.

    Raises:
        FileNotFoundError: a file of the model is missing.
        FileExistsError: the folder is there already.
        ValueError: a checkpoint is damaged, needs code, or does not fit the plans.
    """
    import torch

    source = Path(source)
    target = Path(out) / "__".join((STOCK_TRAINER, *source.resolve().name.split("__")[1:]))
    if target.exists():
        raise FileExistsError(f"{target} is there already; remove it, or give another folder")
    for name in ("plans.json", "dataset.json", *(f"fold_{fold}/{checkpoint}" for fold in folds)):
        if not (source / name).is_file():
            raise FileNotFoundError(f"no {name} in {source}; expected the folder of a model that nnUNetv2_train wrote")
    partial = target.with_name(f".{target.name}.part")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    partial.mkdir(parents=True)
    try:
        plans, dataset_json = (json.loads((source / name).read_text(encoding="utf-8")) for name in ("plans.json", "dataset.json"))
        seen = sorted(seen_images(dataset_json, [source / f"fold_{fold}" for fold in folds]))
        dataset_json = {name: value for name, value in dataset_json.items() if name not in _PRIVATE} | ({SEEN: seen} if seen else {})
        for name, content in (("plans.json", plans), ("dataset.json", dataset_json)):
            (partial / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        for fold in folds:
            (partial / f"fold_{fold}").mkdir()
            torch.save(_stripped(source / f"fold_{fold}" / checkpoint, dataset_json), partial / f"fold_{fold}" / CHECKPOINT)
        check_model(partial, plan_level=True)
        os.rename(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return hashes_of(target)


def entry_facts(folder: str | Path) -> str:
    """The fields `model`, `bytes` and `files` of an entry in models.json, for a folder that `strip_checkpoint` made."""
    folder = Path(folder)
    files = hashes_of(folder)
    size = sum((folder / name).stat().st_size for name in files)
    return json.dumps({"model": folder.name, "bytes": size, "files": files}, indent=1)


def _stripped(path: Path, dataset_json: dict[str, Any]) -> dict[str, Any]:
    from nnunet_neuro.predict.checkpoints import load_checkpoint

    content = load_checkpoint(path)
    best = content.get("_best_ema")
    return {
        "network_weights": _halved(content["network_weights"]), "optimizer_state": None, "grad_scaler_state": None, "logging": {},
        "_best_ema": None if best is None else float(best),  # of NumPy before, which torch loads only where it is told to
        "current_epoch": int(content.get("current_epoch", 0)),
        # the device is left out: it may be one that another machine lacks
        "init_args": {name: value for name, value in content["init_args"].items() if name != "device"} | {"dataset_json": dataset_json},
        "trainer_name": STOCK_TRAINER, "inference_allowed_mirroring_axes": content.get("inference_allowed_mirroring_axes"),
    }


def _halved(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights in 16 bits; equal ones are one tensor, which torch then stores once."""
    import torch

    once: dict[tuple, torch.Tensor] = {}
    halved = {}
    for name, value in weights.items():
        value = value.detach().cpu().contiguous()
        if value.is_floating_point() and value.half().isfinite().all():
            value = value.half()
        digest = hashlib.sha256(value.reshape(-1).view(torch.uint8).numpy()).hexdigest()
        halved[name] = once.setdefault((digest, tuple(value.shape), value.dtype), value.clone())
    return halved
