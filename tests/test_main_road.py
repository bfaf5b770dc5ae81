"""The whole road on real axons, through the commands a user types; the longest test."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


SCRATCH = ("nnUNetTrainerAxialAttention", "nnUNetPlansSmall")
FINE_TUNED = ("nnUNetTrainerFineTune", "nnUNetPlansZooFromLsAxons")


def quickstart(folder: Path, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", "import sys; from nnunet_neuro.commands.quickstart import main; sys.exit(main())",
                           str(folder), "--epochs", "1", "--iterations", "2", *options], capture_output=True, text=True, timeout=1500,
                          env={**os.environ, "NNNEURO_AUTOLOAD": "1"})


def commands_of(done: subprocess.CompletedProcess) -> list[str]:
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return [line.split("$ ")[1] for line in done.stdout.splitlines() if line.startswith("  $ ")]


def test_quickstart_from_scratch_ends_with_a_report_and_a_model_that_predicts_elsewhere(tmp_path):
    folder = tmp_path / "road"
    assert len(commands_of(quickstart(folder, "--from-scratch"))) == 7
    assert "trailmap_val_005" in (folder / "report/scores.json").read_text()
    _exported_model_predicts_elsewhere(folder, tmp_path)


def test_quickstart_ends_with_a_report_and_a_second_run_trains_nothing(tmp_path):
    folder = tmp_path / "road"
    done = quickstart(folder)
    assert len(commands_of(done)) == 6
    assert "the model has seen 4 of the 6 cases in training" in done.stdout
    report = Path(re.search(r"^Report: (.*)$", done.stdout, re.M).group(1))
    page = report.read_text()
    assert page.count("data:image/png;base64,") >= 3  # a case and the training curve of each fold
    assert not re.search(r'(src|href)="(https?:|//)', page)
    scores = json.loads((report.parent / "scores.json").read_text())
    assert "trailmap_val_005" in json.dumps(scores)

    folds = [folder / f"results/Dataset701_Axons/{'__'.join(FINE_TUNED)}__3d_fullres/fold_{i}" for i in (0, 1)]
    before = [(fold / "checkpoint_final.pth").stat().st_mtime_ns for fold in folds]
    again = quickstart(folder)
    assert again.returncode == 0, again.stdout[-3000:]
    assert again.stdout.count("done already") == 5
    assert before == [(fold / "checkpoint_final.pth").stat().st_mtime_ns for fold in folds]
    _opens_in_a_browser(report, tmp_path)


def _exported_model_predicts_elsewhere(road: Path, tmp_path: Path) -> None:
    """nnUNetv2_export_model_to_zip, then nnUNetv2_install_pretrained_model_from_zip and nnUNetv2_predict in other folders."""
    here = {f"nnUNet_{name}": str(road / name) for name in ("raw", "preprocessed", "results")}
    there = {f"nnUNet_{name}": str(tmp_path / "other" / name) for name in ("raw", "preprocessed", "results")}
    for path in there.values():
        Path(path).mkdir(parents=True)
    archive, out = tmp_path / "model.zip", tmp_path / "predicted"
    chosen = ["-c", "3d_fullres", "-f", "0", "1", "-tr", SCRATCH[0], "-p", SCRATCH[1]]
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


def _opens_in_a_browser(report: Path, tmp_path: Path) -> None:
    """Where there is a Chromium: the page is drawn, and its scripts and images complain about nothing."""
    browser = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    if browser is None:
        return
    picture = tmp_path / "page.png"
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr",
         "--window-size=1200,3000", f"--screenshot={picture}", report.as_uri()], capture_output=True, text=True, timeout=120)
    assert picture.stat().st_size > 50_000, done.stderr[-2000:]
    assert "CONSOLE" not in done.stderr
