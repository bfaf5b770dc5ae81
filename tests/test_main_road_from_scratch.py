"""The whole road from random weights, and its model in another place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.main_road import commands_of, quickstart

pytestmark = pytest.mark.slow
TRAINER, PLANS = "nnUNetTrainerAxialAttention", "nnUNetPlansSmall"


def test_quickstart_from_scratch_ends_with_a_report_and_a_model_that_predicts_elsewhere(tmp_path):
    folder = tmp_path / "road"
    assert len(commands_of(quickstart(folder, "--from-scratch"))) == 7
    assert "trailmap_val_005" in (folder / "report/scores.json").read_text()
    _exported_model_predicts_elsewhere(folder, tmp_path)


def _exported_model_predicts_elsewhere(road: Path, tmp_path: Path) -> None:
    """nnUNetv2_export_model_to_zip, then nnUNetv2_install_pretrained_model_from_zip and nnUNetv2_predict in other folders."""
    here = {f"nnUNet_{name}": str(road / name) for name in ("raw", "preprocessed", "results")}
    there = {f"nnUNet_{name}": str(tmp_path / "other" / name) for name in ("raw", "preprocessed", "results")}
    for path in there.values():
        Path(path).mkdir(parents=True)
    archive, out = tmp_path / "model.zip", tmp_path / "predicted"
    chosen = ["-c", "3d_fullres", "-f", "0", "1", "-tr", TRAINER, "-p", PLANS]
    images = road / "raw/Dataset701_Axons/imagesTs"
    for variables, command in (
        (here, ["nnUNetv2_export_model_to_zip", "-d", "701", "-o", str(archive), *chosen]),
        (there, ["nnUNetv2_install_pretrained_model_from_zip", str(archive)]),
        (there, ["nnUNetv2_predict", "-i", str(images), "-o", str(out), "-d", "701", *chosen, "-device", "cpu", "-npp", "1",
                 "-nps", "1", "--disable_tta"]),
    ):
        program = Path(sys.executable).parent / command[0]
        done = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=600, env={**os.environ, **variables})
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    expected = road / "predictions/trailmap_val_005.tif"
    assert (out / "trailmap_val_005.tif").read_bytes() == expected.read_bytes()
