"""Predict volumes of any size with a trained nnU-Net model."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from nnunet_neuro.commands._run import one_sentence_errors
from nnunet_neuro.options import parse_size, parse_spacing
from nnunet_neuro.predict.options import PRECISIONS, PredictOptions

KINDS = {".tif": "tiff", ".tiff": "tiff", ".nii": "nifti", ".nii.gz": "nifti"}
# of what is free, for a run that is not told
_SHARE_OF_MEMORY = 0.6


@one_sentence_errors("nnneuro_predict")
def main(argv: list[str] | None = None) -> int:
    """Predict, or go on with a prediction that was interrupted."""
    options = _parser().parse_args(argv)
    os.environ.setdefault("nnUNet_raw", ""), os.environ.setdefault("nnUNet_preprocessed", "")  # nnU-Net warns of what is not needed here
    from nnunet_neuro.predict.inputs import NamedChannels, parse_roi
    from nnunet_neuro.predict.request import Instances, PredictionRequest
    from nnunet_neuro.predict.run import predict

    channels = NamedChannels(tuple(options.input), parse_roi(options.roi) if options.roi else None, options.missing_chunks == "zero")
    instances = Instances(options.instances, options.minimum_size, options.seed_depth) if options.instances else None
    done = predict(PredictionRequest(
        _models(options), channels, options.output, kind=_kind(options), options=_how(options), spacing=options.spacing,
        any_spacing=options.any_spacing, chunk=options.chunk, memory=options.memory or _free_memory(), workers=options.workers,
        scheduler=options.scheduler, shard=options.shard, probability_dtype=options.probability_type, instances=instances,
        preview=options.preview))
    if done is not None:
        print(done)
    return 0


def _how(options: argparse.Namespace) -> PredictOptions:
    """What --fast stands for, unless an option says otherwise."""
    step, batch, background = (0.75, 2, 0.0) if options.fast else (0.5, 1, None)
    return PredictOptions(
        step=step if options.step is None else options.step, batch=batch if options.batch is None else options.batch,
        background=background if options.background is None else options.background, mirroring=not (options.disable_tta or options.fast),
        compile=options.compile, precision=options.precision, device=options.device or _best_device(),
        probabilities=options.probabilities, entropy=options.uncertainty, disagreement=options.uncertainty)


def _kind(options: argparse.Namespace) -> str | None:
    """Format of the export; None for OME-Zarr itself.

    Raises:
        ValueError: the name ends as files do that are read here and not written.
    """
    from nnunet_neuro.volumes import HDF5_SUFFIXES, IMAGE_SUFFIXES, NRRD_SUFFIXES

    if options.format:
        return None if options.format == "ome-zarr" else options.format
    name = options.output.name.lower()
    if name.endswith((*IMAGE_SUFFIXES, *NRRD_SUFFIXES, *HDF5_SUFFIXES, ".npy", ".mgh", ".mgz")):
        raise ValueError(f"{options.output} cannot be written; end the output in .zarr, {', '.join(KINDS)}, or name a --format")
    return next((kind for ending, kind in KINDS.items() if name.endswith(ending)), None)


def _models(options: argparse.Namespace) -> tuple:
    from nnunet_neuro.predict.job import ModelChoice

    folds = tuple(options.folds) if options.folds else None
    named = {"--model": options.model, "--zoo": options.zoo, "-d": options.dataset}
    if len(given := [option for option, value in named.items() if value is not None]) > 1:
        raise ValueError(f"both {given[0]} and {given[1]} name a model; give one of them")
    folders = options.model or _zoo_folders(options) or [_results_folder(options, name) for name in options.configuration]
    return tuple(ModelChoice(folder, folds, options.checkpoint, options.allow_code) for folder in folders)


def _zoo_folders(options: argparse.Namespace) -> list[Path]:
    from nnunet_neuro.models.installed import model_folder

    return [model_folder(name) for name in options.zoo or ()]


def _results_folder(options: argparse.Namespace, configuration: str) -> Path:
    if options.dataset is None:
        raise ValueError("no model was named; give --model FOLDER, or -d DATASET for one in nnUNet_results, or --zoo NAME")
    if not os.environ.get("nnUNet_results"):
        raise ValueError("the environment variable nnUNet_results is not set; set it to where the model is, or give --model FOLDER")
    from nnunetv2.utilities.file_path_utilities import get_output_folder

    try:
        return Path(get_output_folder(options.dataset, options.trainer, options.plans, configuration))
    except RuntimeError as error:
        raise ValueError(f"no dataset {options.dataset} in nnUNet_results ({str(error).splitlines()[0]}); give --model FOLDER") from error


def _best_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _free_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available * _SHARE_OF_MEMORY)


def parse_memory(text: str) -> int:
    """`8G`, `500M` or `1.5T` in bytes.

    Raises:
        ArgumentTypeError: not of that form.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([MGT])B?", text.strip(), re.IGNORECASE)
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount of memory; expected a number with M, G or T, such as 8G")
    return int(float(match[1]) * 1024 ** {"M": 2, "G": 3, "T": 4}[match[2].upper()])


def _parse_fold(text: str) -> int | str:
    if text != "all" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no fold; expected a number, or all")
    return text if text == "all" else int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nnneuro_predict", usage="%(prog)s INPUT [INPUT ...] OUTPUT --model FOLDER [options]",
                                     description=f"{__doc__} The same command continues what was interrupted.")
    parser.add_argument("input", nargs="+", metavar="INPUT", help="volume: TIFF, folder of slices, OME-Zarr, NIfTI, HDF5, N5, "
                        "precomputed://, bossdb://; several for several channels")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="what to make: OME-Zarr labels unless --format says otherwise")
    model = parser.add_argument_group("the model")
    model.add_argument("--model", type=Path, action="append", metavar="FOLDER", help="TRAINER__PLANS__CONFIGURATION with fold_0 in it; "
                       "several times: the mean of their probabilities")
    model.add_argument("--zoo", action="append", metavar="NAME", help="a model that nnneuro_models list shows, in place of --model")
    model.add_argument("-d", dest="dataset", metavar="DATASET", help="number or name of a dataset in nnUNet_results, in place of --model")
    model.add_argument("-c", dest="configuration", nargs="+", metavar="NAME", default=["3d_fullres"],
                       help="default: 3d_fullres; several are averaged")
    model.add_argument("-tr", dest="trainer", metavar="NAME", default="nnUNetTrainer", help="default: %(default)s")
    model.add_argument("-p", dest="plans", metavar="NAME", default="nnUNetPlans", help="default: %(default)s")
    model.add_argument("-f", dest="folds", nargs="+", type=_parse_fold, metavar="FOLD", help="default: all that are there")
    model.add_argument("-chk", dest="checkpoint", metavar="FILE", default="checkpoint_final.pth", help="default: %(default)s")
    model.add_argument("--allow-code", action="store_true", help="load checkpoints that can run code, and plans that name "
                       "other things than known network parts; only if you trust who made them")
    volume = parser.add_argument_group("the volume")
    volume.add_argument("--roi", metavar="Z0:Z1,Y0:Y1,X0:X1", help="predict a part, in voxels")
    volume.add_argument("--spacing", type=parse_spacing, metavar="Z,Y,X", help="voxel size, in place of what the input states")
    volume.add_argument("--any-spacing", action="store_true", help="also predict voxels of quite another size than the model's")
    volume.add_argument("--missing-chunks", choices=("error", "zero"), default="error",
                        help="chunks of the input that are not there: refuse them, or take them for zeros (default: error)")
    how = parser.add_argument_group("how")
    how.add_argument("--fast", action="store_true", help="step 0.75, no mirroring, two windows at once, windows of zeros skipped")
    how.add_argument("--step", type=float, metavar="SHARE", help="of two windows, as a share of the patch (default: 0.5)")
    how.add_argument("--disable-tta", action="store_true", help="no mirroring")
    how.add_argument("--batch", type=int, metavar="N", help="windows at once (default: 1)")
    how.add_argument("--background", type=float, metavar="LEVEL", help="skip windows of which no voxel is above it")
    how.add_argument("--compile", action="store_true", help="torch.compile; pays for large volumes")
    how.add_argument("--precision", choices=PRECISIONS, default="auto", help="of the network (default: auto, nnU-Net's own)")
    how.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps (default: cuda where there is a GPU)")
    where = parser.add_argument_group("where")
    where.add_argument("--memory", type=parse_memory, metavar="8G", help="for all workers together (default: 60 %% of what is free)")
    where.add_argument("--workers", type=int, metavar="N", default=1,
                       help="processes of this machine, one per GPU where there are GPUs (default: 1)")
    where.add_argument("--scheduler", metavar="tcp://HOST:PORT", help="an existing dask.distributed cluster that sees the same files")
    where.add_argument("--shard", metavar="I/N", help="the I-th of N parts, I from 0, such as of a Slurm array")
    made = parser.add_argument_group("what is made")
    made.add_argument("--format", choices=("ome-zarr", "tiff", "tiff-slices", "nifti", "precomputed"), help="default: by the output's name")
    made.add_argument("--chunk", type=parse_size, default=(64, 64, 64), metavar="Z,Y,X", help="of the OME-Zarr (default: 64,64,64)")
    made.add_argument("--probabilities", action="store_true", help="also store the probability of each class")
    made.add_argument("--uncertainty", action="store_true", help="also store entropy, and the disagreement of folds or models")
    made.add_argument("--probability-type", choices=("uint8", "float16"), default="uint8", help="of both (default: uint8, 0 to 255)")
    made.add_argument("--instances", choices=("components", "watershed"), help="also store objects, with a table")
    made.add_argument("--minimum-size", type=int, default=1, metavar="VOXELS", help="of an object (default: 1)")
    made.add_argument("--seed-depth", type=float, metavar="LENGTH", help="of the watershed: an object has a seed where it is that thick to "
                      "every side (default: twice the smallest voxel size)")
    made.add_argument("--preview", action="store_true", help="also draw a PNG")
    return parser
