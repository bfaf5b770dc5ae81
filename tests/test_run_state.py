"""What is finished of a run, and who computes what."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import shutil
import threading

import pytest

from nnunet_neuro.predict.run_state import BlockReport, RunState

IDENTITY = {"model": "sha256:1", "input": {"path": "/brain.zarr", "bytes": 7}, "options": {"step": 0.5, "mirroring": True, "axes": (0, 1)}}
REPORT = BlockReport(voxels=8, seconds=0.5, windows=3, skipped=1, digest="ab")


@pytest.fixture
def state(tmp_path) -> RunState:
    return RunState.open(tmp_path / "brain.state", IDENTITY)


def test_a_finished_block_is_known_to_whoever_opens_the_run(tmp_path, state):
    with state.claim(7):
        state.mark_finished(7, REPORT)
    again = RunState.open(tmp_path / "brain.state", IDENTITY)
    for one in (again, pickle.loads(pickle.dumps(again))):
        assert one.finished() == {7} and one.is_finished(7) and not one.is_finished(8)
        assert one.reports() == {7: REPORT}
        assert one.claim(7) is None


@pytest.mark.parametrize("changed, sentence", [
    ({"model": "sha256:2"}, 'model "sha256:1", now asked for "sha256:2"'),
    ({"options": {"step": 0.7, "mirroring": True, "axes": (0, 1)}}, "options.step 0.5, now asked for 0.7"),
    ({"input": {"path": "/brain.zarr", "bytes": 7, "roi": "0:9"}}, 'input.roi null, now asked for "0:9"'),
])
def test_another_identity_is_refused_and_named(tmp_path, state, changed, sentence):
    with pytest.raises(ValueError) as error:
        RunState.open(tmp_path / "brain.state", {**IDENTITY, **changed})
    assert sentence in str(error.value) and "\n" not in str(error.value)
    RunState.open(tmp_path / "brain.state", IDENTITY)


@pytest.mark.parametrize("content", [None, "", "{"])
def test_a_folder_that_is_no_run_is_refused(tmp_path, content):
    (tmp_path / "brain.state").mkdir()
    if content is not None:
        (tmp_path / "brain.state" / "identity.json").write_text(content)
    with pytest.raises(ValueError, match="is not the state of a run"):
        RunState.open(tmp_path / "brain.state", IDENTITY)


def test_many_processes_begin_one_run(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(8)
    processes = [context.Process(target=_begin, args=(tmp_path, i % 2, barrier)) for i in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert sorted(process.exitcode for process in processes) == [0] * 4 + [3] * 4  # whoever came first, the other identity is refused
    assert [path.name for path in tmp_path.iterdir()] == ["brain.state"]


def _begin(folder, number, barrier):
    barrier.wait(30)
    try:
        RunState.open(folder / "brain.state", {"model": number})
    except ValueError:
        os._exit(3)
    os._exit(0)


def test_a_claimed_block_is_nobody_elses(state):
    with state.claim(3):
        assert state.claim(3) is None and not state.is_finished(3)
        others = []
        thread = threading.Thread(target=lambda: others.append(state.claim(3)))
        thread.start()
        thread.join()
        assert others == [None]
        with state.claim(4) as other:
            assert other is not None
    with state.claim(3) as claim:  # given back unfinished
        assert claim is not None


def test_the_claim_of_a_killed_process_means_nothing(state):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_hold, args=(state, ready))
    process.start()
    assert ready.wait(30) and state.claim(5) is None
    process.kill()
    process.join()
    assert (state.folder / "claims" / "5.lock").exists()
    with state.claim(5) as claim:
        assert claim is not None
        state.mark_finished(5, REPORT)
    state.tidy()
    assert sorted(path.name for path in state.folder.iterdir()) == ["finished", "identity.json"]


def _hold(state, ready):
    with state.claim(5):
        ready.set()
        threading.Event().wait()


def test_tidying_leaves_the_claims_of_others(state):
    with state.claim(1):
        state.tidy()
        assert state.claim(1) is None
        state.mark_finished(1, REPORT)
    state.tidy()
    assert not (state.folder / "claims").exists()


def test_an_error_in_a_block_gives_it_back(state):
    with pytest.raises(ZeroDivisionError), state.claim(2):
        raise ZeroDivisionError
    assert not state.is_finished(2)
    with state.claim(2) as claim:
        assert claim is not None


@pytest.mark.parametrize("number, sentence", [(errno.ENOSPC, "no space left"), (errno.EROFS, "cannot be written to")])
def test_a_disk_that_takes_nothing_more_keeps_what_is_finished(state, monkeypatch, number, sentence):
    with state.claim(0):
        state.mark_finished(0, REPORT)
    claim = state.claim(1)

    def refuse(self, *arguments, **options):
        raise OSError(number, os.strerror(number), str(self))

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_text", refuse)
        with pytest.raises(OSError, match=sentence) as error:
            state.mark_finished(1, REPORT)
        assert "\n" not in str(error.value)
    claim.release()
    assert state.finished() == {0} and not list((state.folder / "finished").glob(".*"))
    with state.claim(1):
        state.mark_finished(1, REPORT)
    assert state.finished() == {0, 1}


def test_a_marker_is_written_at_once_or_not(state):
    with state.claim(6):
        (state.folder / "finished" / ".6.json.partial").write_text("{")  # as a killed process leaves it
        assert state.finished() == set()
        state.mark_finished(6, REPORT)
    assert [path.name for path in (state.folder / "finished").iterdir()] == ["6.json"]


def test_identity_is_readable(state):
    assert json.loads((state.folder / "identity.json").read_text())["options"] == {"step": 0.5, "mirroring": True, "axes": [0, 1]}


def test_a_removed_run_begins_anew(tmp_path, state):
    with state.claim(0):
        state.mark_finished(0, REPORT)
    shutil.rmtree(state.folder)
    assert RunState.open(tmp_path / "brain.state", {"model": "other"}).finished() == set()
