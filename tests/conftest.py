"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.boss_server import boss_server  # noqa: F401 - a fixture

# two cores: more processes than that only wait for each other
os.environ.setdefault("nnUNet_def_n_proc", "1")
os.environ.setdefault("nnUNet_compile", "f")

SAMPLE = Path(__file__).parents[1] / "nnunet_neuro" / "sample_data" / "axons"


@pytest.fixture
def interruptible():
    """Programs started in the test can be interrupted; a shell that runs the tests in the background has them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a handler, unlike a signal ignored, is not inherited
    yield
    signal.signal(signal.SIGINT, before)


@dataclass(frozen=True)
class NnunetFolders:
    """nnU-Net's three folders, below the test's own."""

    raw: Path
    preprocessed: Path
    results: Path


@pytest.fixture
def nnunet_folders(tmp_path, monkeypatch) -> NnunetFolders:
    """Empty raw, preprocessed and results folders that nnU-Net and the commands use during the test."""
    folders = NnunetFolders(*(tmp_path / name for name in ("raw", "preprocessed", "results")))
    for name in ("raw", "preprocessed", "results"):
        getattr(folders, name).mkdir()
        monkeypatch.setenv(f"nnUNet_{name}", str(getattr(folders, name)))
    return folders


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data beside the project; skips where there is none."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data, which this checkout does not have")
    return folder


@pytest.fixture(scope="module")
def small_models(tmp_path_factory) -> dict[str, Path]:
    """Trained models: of one channel, of two, in 2D, and of regions."""
    from tests.tiny_models import REGIONS, tiny_model  # nnU-Net reads the environment when it is imported

    root = tmp_path_factory.mktemp("models")
    return {"one": tiny_model(root / "one"), "two": tiny_model(root / "two", channels=2), "flat": tiny_model(root / "flat", patch=(32, 24)),
            "regions": tiny_model(root / "regions", labels=REGIONS)}
