"""A tiny volume, models and files for tests of `nnneuro_predict`, and what nnU-Net predicts for them."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path

import numpy as np
import tifffile

from nnunet_neuro.commands.predict import main
from nnunet_neuro.volumes import open_volume
from tests.tiny_models import nnunet_labels, tiny_model

SHAPE = (40, 26, 22)  # three blocks of 16 planes each
PATCH = (16, 24, 20)


def image(channels: int = 1) -> np.ndarray:
    """(channels, z, y, x) uint8 with zeros on one side, which nnU-Net crops."""
    voxels = np.random.default_rng(5).integers(1, 200, (channels, *SHAPE)).astype(np.uint8)
    voxels[:, :3] = 0
    return voxels


@functools.cache
def model(**settings) -> Path:
    """A trained model, one folder for equal settings of `tiny_model`; not to be changed."""
    return tiny_model(Path(tempfile.mkdtemp(dir=_MODELS.name)) / "model", **{"patch": PATCH, **settings})


@functools.cache
def expected(folder: Path, channels: int = 1, folds: tuple[int, ...] = (0,)) -> np.ndarray:
    """nnU-Net's own labels of `image`."""
    return nnunet_labels(folder, image(channels), folds=folds)


def write_tiff(path: Path, voxels: np.ndarray) -> Path:
    """A multi-page TIFF of (z, y, x)."""
    tifffile.imwrite(path, voxels, photometric="minisblack")
    return path


def arguments(inputs, output: Path, folder: Path, *options: str) -> list[str]:
    """Of `nnneuro_predict`."""
    inputs = inputs if isinstance(inputs, list) else [inputs]
    return [*map(str, inputs), str(output), "--model", str(folder), "--device", "cpu", "--chunk", "16,16,16", *options]


def run(inputs, output: Path, folder: Path, *options: str) -> int:
    """The exit code of `nnneuro_predict`."""
    return main(arguments(inputs, output, folder, *options))


def labels_in(output: Path) -> np.ndarray:
    """(z, y, x) of any format that is written."""
    return open_volume(output).read()


def summary_of(output: Path) -> dict:
    """The JSON summary beside an output."""
    return json.loads(output.with_name(f"{output.name.removesuffix('.zarr')}.summary.json").read_text())


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but what names a run or a time."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and ".nnneuro" not in path.parts and not path.name.endswith("summary.json")}


def check_clean(output: Path) -> None:
    """Of an OME-Zarr output: no temporary file, lock or claim is left."""
    assert not [path for path in output.parent.rglob("*") if path.name.endswith((".partial", ".lock"))]
    assert names_in(output / ".nnneuro") == ["blocks.json", "finished", "first_pass.json", "identity.json"]


def refusal(capsys, code: int) -> str:
    """The one sentence of a command that has just ended with code 2."""
    shown = capsys.readouterr()
    assert code == 2 and not shown.out
    sentences = [line for line in shown.err.splitlines() if line.startswith("nnneuro_predict: error: ")]
    assert len(sentences) == 1 and shown.err.rstrip().endswith(sentences[0]) and "Traceback" not in shown.err
    return sentences[0]


_MODELS = tempfile.TemporaryDirectory(prefix="nnneuro-models-")
