"""The whole road on real axons, from the shipped model, through the commands a user types; the longest test."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.main_road import commands_of, quickstart

pytestmark = pytest.mark.slow
MODEL = "nnUNetTrainerFineTune__nnUNetPlansZooFromLsAxons__3d_fullres"


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

    folds = [folder / f"results/Dataset701_Axons/{MODEL}/fold_{i}" for i in (0, 1)]
    before = [(fold / "checkpoint_final.pth").stat().st_mtime_ns for fold in folds]
    again = quickstart(folder)
    assert again.returncode == 0, again.stdout[-3000:]
    assert again.stdout.count("done already") == 5
    assert before == [(fold / "checkpoint_final.pth").stat().st_mtime_ns for fold in folds]
    _opens_in_a_browser(report, tmp_path)


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
