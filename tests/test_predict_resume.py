"""Predictions that are killed, shared or started again: never twice, same bytes, nothing left over, no other run's output."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from nnunet_neuro.predict import run as predict_run
from nnunet_neuro.predict.completion import complete
from tests.predict_road import expected, files_in, image, labels_in, model, names_in, refusal, run, summary_of, write_tiff

SEVERAL_FOLDS = (0, 1)
LONG = (118, 26, 22)
OBJECTS = ("--instances", "components", "--uncertainty")
RANDOM = random.Random(7)


@pytest.fixture
def brain(tmp_path) -> Path:
    """A TIFF of one channel."""
    return write_tiff(tmp_path / "brain.tif", image()[0])


@pytest.fixture
def long_brain(tmp_path) -> Path:
    """A TIFF that makes eight blocks."""
    return write_tiff(tmp_path / "long.tif", np.random.default_rng(6).integers(1, 200, LONG).astype(np.uint8))


class Forked:
    """The command in a process forked from this one, which has imported everything, so that kills fall on the work."""

    def __init__(self, inputs: Path, output: Path, *options: str):
        self.pid = os.fork()
        if not self.pid:
            code = 3
            try:
                import torch

                torch.set_num_threads(1)  # threads do not survive a fork
                code = run(inputs, output, model(), *options)
            finally:
                os._exit(code)

    def kill(self) -> bool:
        """Whether it was still at work."""
        os.kill(self.pid, signal.SIGKILL)
        return self.wait() == -signal.SIGKILL

    def wait(self) -> int:
        """The exit code."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def markers(output: Path) -> dict[str, tuple[int, bytes]]:
    """The finished blocks, with when and by what they were marked."""
    folder = output / ".nnneuro" / "finished"
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob("[0-9]*.json")} if folder.is_dir() else {}


def run_with_kills(tmp_path: Path, brain: Path, name: str, kills: int, *options: str) -> int:
    """Kill -9 at random moments of a run, then let it end: the same bytes, and no finished block computed again.

    Returns:
        How many kills met a program that was at work.
    """
    begun = time.monotonic()
    whole, output = tmp_path / "whole" / name, tmp_path / f"killed{kills}" / name
    if not whole.parent.exists():
        assert Forked(brain, whole, *options).wait() == 0
    seconds = time.monotonic() - begun
    store = output if name.endswith(".zarr") else output.with_name(f"{name}.work.zarr")
    finished, met = {}, 0
    for _ in range(kills):
        program = Forked(brain, output, *options)
        time.sleep(RANDOM.uniform(0, 2 * seconds / kills))
        met += program.kill()
        now = markers(store)
        assert now.items() >= finished.items() or not store.exists()
        finished = now
    assert Forked(brain, output, *options).wait() == 0
    assert markers(store).items() >= finished.items() or not store.exists()
    check_equal(output, whole)
    return met


def check_equal(output: Path, whole: Path) -> None:
    """Nothing is lost, left over, or different; the picture names its folder."""
    files, wanted = files_in(output.parent), files_in(whole.parent)
    assert files.keys() == wanted.keys()
    assert not [path for path, content in wanted.items() if files[path] != content and not path.endswith(".png")]
    assert summary_of(output)["sha256_of_voxels"] == summary_of(whole)["sha256_of_voxels"]


@pytest.mark.parametrize("name", ["out.zarr", "out.nii.gz"])
def test_killed_runs_go_on(tmp_path, long_brain, name):
    run_with_kills(tmp_path, long_brain, name, 3, *OBJECTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out.zarr", "out.nii.gz"])
def test_fifty_killed_runs_go_on(tmp_path, long_brain, name):
    met = [run_with_kills(tmp_path, long_brain, name, kills, *OBJECTS, "--preview") for kills in (2, 3, 4, 5, 6, 7, 8, 15)]
    assert sum(met) > 25


def run_pairs(tmp_path: Path, brain: Path, name: str, pairs: int) -> None:
    """Two commands on one output, one of which is killed every other time."""
    whole = tmp_path / "whole" / name
    assert run(brain, whole, model(), *OBJECTS) == 0
    for number in range(pairs):
        output = tmp_path / f"pair{number}" / name
        programs = [Forked(brain, output, *OBJECTS) for _ in range(2)]
        if number % 2:
            time.sleep(RANDOM.uniform(0, 2))
            programs.pop(RANDOM.randrange(2)).kill()
        assert [program.wait() for program in programs] == [0] * len(programs)
        check_equal(output, whole)


@pytest.mark.parametrize("name", ["out.zarr", "out.nii.gz"])
def test_two_programs_share_an_output(tmp_path, long_brain, name):
    run_pairs(tmp_path, long_brain, name, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out.zarr", "out.nii.gz"])
def test_twenty_pairs_of_programs(tmp_path, long_brain, name):
    run_pairs(tmp_path, long_brain, name, 20)


@pytest.mark.parametrize("name", ["out.zarr", "out.tif"])
def test_one_program_completes_and_the_others_wait_for_it(tmp_path, brain, name, monkeypatch, capfd):
    def slowly(*arguments):
        with (tmp_path / "log").open("a") as stream:
            stream.write(f"{os.getpid()}\n")
        time.sleep(0.5)
        return complete(*arguments)

    monkeypatch.setattr(predict_run, "complete", slowly)
    programs = [Forked(brain, tmp_path / "made" / name) for _ in range(3)]
    assert [program.wait() for program in programs] == [0, 0, 0]
    assert len((tmp_path / "log").read_text().splitlines()) == 1
    assert capfd.readouterr().err.count("this one waits until it is done") == 2
    assert not [path for path in (tmp_path / "made").iterdir() if path.name.startswith(".") or "work" in path.name]


def test_blocks_stay_as_the_run_began_with_them(tmp_path, brain, capsys, monkeypatch):
    assert run(brain, tmp_path / "out.zarr", model(), "--shard", "0/2") == 0
    monkeypatch.setattr(predict_run, "_block_size", lambda *_: (16, 16, 16))
    assert run(brain, tmp_path / "out.zarr", model()) == 0
    assert "blocks have [16, 26, 22] voxels since the run was begun with more memory" in capsys.readouterr().err
    np.testing.assert_array_equal(labels_in(tmp_path / "out.zarr"), expected(model()))


@pytest.mark.parametrize("name", ["out.zarr", "out.tif", "out.nii.gz"])
def test_a_finished_run_does_nothing_again(tmp_path, brain, name, capsys, monkeypatch):
    options = ("--instances", "components", "--preview")
    assert run(brain, tmp_path / "made" / name, model(), *options) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "made").rglob("*")}
    capsys.readouterr()
    monkeypatch.setattr("nnunet_neuro.predict.run._predict", None)
    for again in (options, (), ("--shard", "1/3"), ("--workers", "2")):
        assert run(brain, tmp_path / "made" / name, model(), *again) == 0
        shown = capsys.readouterr()
        assert shown.out == f"{tmp_path / 'made' / name}\n" and shown.err == f"{tmp_path / 'made' / name} is finished already\n"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "made").rglob("*")} == before


def test_what_a_kill_between_summary_and_tidying_leaves_is_removed(tmp_path, brain, monkeypatch):
    output = tmp_path / "made" / "out.tif"
    with monkeypatch.context() as patch:
        patch.setattr("nnunet_neuro.predict.run.remove_work", lambda *_: os._exit(9))
        assert Forked(brain, output).wait() == 9
    assert (tmp_path / "made" / "out.tif.work.zarr").is_dir()
    assert run(brain, output, model()) == 0
    assert names_in(output.parent) == ["out.tif", "out.tif.summary.json"]


CHANGES = {
    "option": (("--step", "0.6"), "step 0.5, now asked for 0.6"),
    "mirroring": (("--disable-tta",), "mirroring true, now asked for false"),
    "part": (("--roi", "0:40,0:26,0:20"), "input.roi null, now asked for [[0, 40], [0, 26], [0, 20]]"),
    "chunk": (("--chunk", "8,8,8"), "chunk [16, 16, 16], now asked for [8, 8, 8]"),
    "spacing": (("--spacing", "1,1,2"), "spacing null, now asked for [1.0, 1.0, 2.0]"),
    "more arrays": (("--probabilities",), "probabilities false, now asked for true"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["out.zarr", "out.tif"])
def test_another_run_is_refused_by_what_differs(tmp_path, brain, change, name, capsys):
    options, sentence = CHANGES[change]
    assert run(brain, tmp_path / name, model(), "--shard", "0/2") == 0  # unfinished
    state = markers(tmp_path / (name if name == "out.zarr" else "out.tif.work.zarr"))
    capsys.readouterr()
    assert sentence in refusal(capsys, run(brain, tmp_path / name, model(), *options))
    assert markers(tmp_path / (name if name == "out.zarr" else "out.tif.work.zarr")) == state
    assert run(brain, tmp_path / name, model()) == 0
    np.testing.assert_array_equal(labels_in(tmp_path / name), expected(model()))
    capsys.readouterr()
    assert sentence.split()[0].split(".")[0] in refusal(capsys, run(brain, tmp_path / name, model(), *options))


@pytest.mark.parametrize("name", ["out.zarr", "out.tif"])
def test_another_model_or_input_is_refused_by_name(tmp_path, brain, name, capsys):
    assert run(brain, tmp_path / name, model()) == 0
    capsys.readouterr()
    assert "model" in refusal(capsys, run(brain, tmp_path / name, model(folds=SEVERAL_FOLDS)))
    other = write_tiff(tmp_path / "other.tif", image()[0])
    assert "input" in refusal(capsys, run(other, tmp_path / name, model()))
    write_tiff(brain, image()[0] + 1)  # the same name, shape and type
    assert "input" in refusal(capsys, run(brain, tmp_path / name, model()))
