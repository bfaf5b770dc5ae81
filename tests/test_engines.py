"""Engines: whoever computes the blocks, and whoever dies meanwhile, the output is the same and little is computed twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_neuro.predict.engines import compute_blocks
from nnunet_neuro.predict.run_state import RunState
from nnunet_neuro.predict.runs import runs_of, shard
from nnunet_neuro.predict.shares import Shares
from nnunet_neuro.predict.windows import block_grid
from tests.predict_task import BLOCKS, Coordinates, check_complete, computed, log, new_output, written

IDENTITY = {"task": "coordinates"}


@pytest.fixture
def folder(tmp_path):
    return new_output(tmp_path)


def open_state(folder) -> RunState:
    return RunState.open(folder / "state", IDENTITY)


def start(folder, *options) -> subprocess.Popen:
    """The run as a program of its own and the leader of its processes; returns when it has begun."""
    code = "import sys\nfrom tests.predict_task import main\nif __name__ == '__main__':\n    main(*sys.argv[1:])\n"
    process = subprocess.Popen([sys.executable, "-c", code, str(folder), *map(str, options)], stdout=subprocess.PIPE, text=True,
                               start_new_session=True)
    assert process.stdout.readline() == "begun\n"
    return process


def kill_all(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(60)
    process.stdout.close()


def wait_for(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


# --- what is handed out ------------------------------------------------------------------------------------------------------------


@given(shape=st.tuples(*[st.integers(1, 60)] * 3), workers=st.integers(1, 9), missing=st.sets(st.integers(0, 60)))
def test_runs_are_all_blocks_once_and_consecutive_in_a_column(shape, workers, missing):
    blocks = [block for block in block_grid(shape, chunk=(8, 16, 16), size=(8, 16, 16)) if block.index not in missing]
    runs = runs_of(blocks, workers)
    assert [block for run in runs for block in run] == blocks
    for run in runs:
        assert {block.column for block in run} == {run[0].column}
        assert [block.index for block in run] == list(range(run[0].index, run[0].index + len(run)))
    left = len(blocks)
    for run in runs:
        assert len(run) <= max(1, -(-left // (2 * workers)))
        left -= len(run)


def test_runs_are_whole_columns_while_there_are_many():
    assert [len(run) for run in runs_of(BLOCKS, 1)][:4] == [10, 10, 10, 10]
    assert [len(run) for run in runs_of(BLOCKS, 1)][-2:] == [1, 1]


@given(shape=st.tuples(*[st.integers(1, 60)] * 3), workers=st.integers(1, 9), missing=st.sets(st.integers(0, 60)),
       turns=st.lists(st.integers(0, 8), max_size=200))
def test_shares_are_all_blocks_once_whoever_asks(shape, workers, missing, turns):
    blocks = [block for block in block_grid(shape, chunk=(8, 16, 16), size=(8, 16, 16)) if block.index not in missing]
    shares, given = Shares(blocks, workers), []
    for worker in [*(turn % workers for turn in turns), *(list(range(workers)) * len(blocks))]:
        if (block := shares.next(worker)) is not None:
            given.append(block.index)
    assert sorted(given) == [block.index for block in blocks]


def test_workers_of_equal_speed_begin_once_each_and_a_slow_one_loses_half_of_what_it_has_left():
    column = block_grid((80, 16, 16), chunk=(8, 16, 16), size=(8, 16, 16))
    shares = Shares(column, 2)
    assert [shares.next(worker).index for _ in range(5) for worker in (0, 1)] == [0, 5, 1, 6, 2, 7, 3, 8, 4, 9]
    shares = Shares(column, 2)
    assert [shares.next(0).index for _ in range(5)] == [0, 1, 2, 3, 4]
    assert [shares.next(0).index for _ in range(3)] == [7, 8, 9]
    assert [shares.next(1).index for _ in range(2)] == [5, 6]
    assert shares.next(0) is None and shares.next(1) is None


def test_shares_are_cut_between_columns_where_that_is_near():
    left = BLOCKS[3:20]  # 7 of the first column, 10 of the second
    shares = Shares(left, 2)
    assert [shares.next(worker).index for worker in (0, 1)] == [3, 10]


def test_what_another_program_has_claimed_is_left_to_it():
    shares = Shares(block_grid((80, 16, 16), chunk=(8, 16, 16), size=(8, 16, 16)), 1)
    assert shares.next(0).index == 0
    shares.claimed(0)
    assert shares.next(0).index == 6
    shares.give_back(0, BLOCKS[6])
    assert shares.next(0).index == 6


@given(count=st.integers(1, 70))
def test_shards_cover_every_block_once(count):
    shares = [shard(BLOCKS, f"{i}/{count}") for i in range(count)]
    assert [block for share in shares for block in share] == BLOCKS
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("text", ["8/8", "1", "a/b", "-1/4", "1/0", "", "1/2/3"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="expected i/N"):
        shard(BLOCKS, text)


# --- this process ------------------------------------------------------------------------------------------------------------------


def test_one_process_computes_each_block_once_and_in_order(folder, capsys):
    state = open_state(folder)
    compute_blocks(Coordinates(folder), BLOCKS, state)
    check_complete(folder, state)
    assert computed(folder) == list(range(len(BLOCKS)))
    assert (folder / "opened").read_text().count("\n") == 1
    shown = capsys.readouterr()
    assert "voxel/s" in shown.err and "100%" in shown.err and not shown.out
    compute_blocks(Coordinates(folder), BLOCKS, state, progress=False)
    assert len(computed(folder)) == len(BLOCKS)


def test_an_error_in_a_block_keeps_what_is_finished(folder):
    state = open_state(folder)
    for workers in (1, 2):
        with pytest.raises(OSError, match="chunk of block 33 is damaged"):
            compute_blocks(Coordinates(folder, fail_at=33), BLOCKS, state, workers=workers, progress=False)
    done = state.finished()
    assert set(range(30)) <= done and 33 not in done
    compute_blocks(Coordinates(folder), BLOCKS, state, progress=False)
    check_complete(folder, state)
    assert not [index for index in done if computed(folder).count(index) > 1]


def test_shards_together_make_the_output(folder):
    state = open_state(folder)
    for i in (2, 0, 1):
        compute_blocks(Coordinates(folder), shard(BLOCKS, f"{i}/3"), state, progress=False)
    check_complete(folder, state)
    assert sorted(computed(folder)) == list(range(len(BLOCKS)))


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_run_says_so_and_goes_on(folder, interruptible, workers):
    process = start(folder, 0.05, workers)
    wait_for(lambda: len(computed(folder)) > 4)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 2 and out.startswith("interrupted after ") and "run the same command again" in out
    state = open_state(folder)
    done = state.finished()
    assert 0 < len(done) < len(BLOCKS)
    compute_blocks(Coordinates(folder), BLOCKS, state, progress=False)
    check_complete(folder, state)
    assert sum(Counter(computed(folder)).values()) <= len(BLOCKS) + workers


def run_with_kills(folder, kills: int, workers: int) -> None:
    """Kill -9 of the whole run at random moments, then let it end; no more is computed twice than was in flight."""
    generator = np.random.default_rng(kills + workers)
    for number in range(kills):
        process = start(folder, 0.01, workers)
        begun = len(computed(folder)) if workers > 1 and number % 2 else None
        if begun is not None:  # workers take a second to start; killed before, they have done nothing
            wait_for(lambda: len(computed(folder)) > begun or process.poll() is not None)  # noqa: B023 - called before the loop goes on
        time.sleep(generator.uniform(0, 1.2 / kills))  # the kills together cover the whole run
        kill_all(process)
    state = open_state(folder)
    before = state.finished()
    compute_blocks(Coordinates(folder), BLOCKS, state, progress=False)
    check_complete(folder, state)
    assert len(computed(folder)) <= len(BLOCKS) + kills * workers
    last = computed(folder)[-(len(BLOCKS) - len(before)):] if len(before) < len(BLOCKS) else []
    assert not before & set(last)


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_runs_go_on(folder, workers):
    run_with_kills(folder, 3, workers)


@pytest.mark.slow
def test_fifty_killed_runs_go_on(folder):
    run_with_kills(folder, 50, 1)


# --- several processes -------------------------------------------------------------------------------------------------------------


def test_two_programs_share_one_output(folder):
    programs = [start(folder, 0.02), start(folder, 0.02)]
    assert [program.wait(60) for program in programs] == [0, 0]
    check_complete(folder, open_state(folder))
    assert sorted(computed(folder)) == list(range(len(BLOCKS)))  # none twice
    of_program = Counter(process for process, _ in log(folder))
    assert len(of_program) == 2 and min(of_program.values()) > 10


@pytest.mark.slow
def test_twenty_pairs_of_programs_of_which_one_is_killed(tmp_path):
    generator = np.random.default_rng(0)
    for number in range(20):
        folder = new_output(tmp_path / f"{number}")
        programs = [start(folder, 0.005), start(folder, 0.005)]
        if number % 2:
            time.sleep(generator.uniform(0, 0.3))
            kill_all(programs.pop(int(generator.integers(2))))
        assert not any(program.wait(60) for program in programs)
        check_complete(folder, open_state(folder))
        assert len(computed(folder)) <= len(BLOCKS) + number % 2


def test_a_program_waits_for_the_blocks_of_another_and_takes_those_of_a_killed_one(folder):
    state = open_state(folder)
    other = start(folder, 3600)
    wait_for(lambda: computed(folder) == [0])
    program = start(folder, 0)
    wait_for(lambda: len(state.finished()) == len(BLOCKS) - 1)
    time.sleep(1)
    assert program.poll() is None and 0 not in state.finished()
    kill_all(other)
    assert program.wait(60) == 0
    check_complete(folder, state)


def test_two_workers_give_the_same(folder):
    state = open_state(folder)
    compute_blocks(Coordinates(folder, seconds=0.02), BLOCKS, state, workers=2, progress=False)
    check_complete(folder, state)
    assert sorted(computed(folder)) == list(range(len(BLOCKS)))
    of_worker = Counter(process for process, _ in log(folder))
    assert len(of_worker) == 2 and os.getpid() not in of_worker and min(of_worker.values()) > 10
    assert (folder / "opened").read_text().count("\n") == 2  # once per worker


def test_a_lost_worker_costs_its_block_only(folder):
    state = open_state(folder)
    compute_blocks(Coordinates(folder, seconds=0.02, kill_at=23, kills=1), BLOCKS, state, workers=2, progress=False)
    check_complete(folder, state)
    assert Counter(computed(folder)) == {**dict.fromkeys(range(len(BLOCKS)), 1), 23: 2}
    assert len({process for process, _ in log(folder)}) == 3


def test_a_block_that_ends_its_worker_twice_is_named(folder):
    state = open_state(folder)
    with pytest.raises(OSError, match=r"block 23 \(region 12:16,0:12,24:36\) ended its worker 2 times") as error:
        compute_blocks(Coordinates(folder, kill_at=23, kills=99), BLOCKS, state, workers=2, progress=False)
    assert "\n" not in str(error.value)
    assert computed(folder).count(23) == 2 and 23 not in state.finished()
    compute_blocks(Coordinates(folder), BLOCKS, state, progress=False)
    check_complete(folder, state)


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="looks processes up in /proc")
def test_workers_end_with_a_killed_program(folder):
    process = start(folder, 0.05, 2)
    wait_for(lambda: len({worker for worker, _ in log(folder)}) == 2)
    workers = {worker for worker, _ in log(folder)}
    process.kill()
    process.wait(60)
    wait_for(lambda: not any(os.path.exists(f"/proc/{worker}") for worker in workers), 30)
    state = open_state(folder)
    compute_blocks(Coordinates(folder), BLOCKS, state, progress=False)
    check_complete(folder, state)
    assert len(computed(folder)) <= len(BLOCKS) + 2


def test_claims_and_markers_cost_little(tmp_path):
    costs = []
    for number in range(3):  # others may use the processor meanwhile
        folder = new_output(tmp_path / f"{number}")
        state, began = open_state(folder), time.monotonic()
        compute_blocks(Coordinates(folder), BLOCKS, state, progress=False)
        costs.append(time.monotonic() - began - sum(report.seconds for report in state.reports().values()))
    assert min(costs) / len(BLOCKS) < 0.02  # seconds per block, of the many that a network takes; measured 0.0024


# --- dask --------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as started:
        yield started


def test_a_dask_cluster_gives_the_same_though_a_worker_is_killed(folder, cluster):
    state = open_state(folder)
    task = Coordinates(folder, seconds=0.02, kill_at=23, kills=1)
    compute_blocks(task, BLOCKS, state, scheduler=cluster.scheduler_address, progress=False)
    check_complete(folder, state)
    assert Counter(computed(folder)) == {**dict.fromkeys(range(len(BLOCKS)), 1), 23: 2}
    with pytest.raises(OSError, match="ended every dask worker"):
        again = new_output(folder / "again")
        compute_blocks(Coordinates(again, kill_at=23, kills=99), BLOCKS, open_state(again), scheduler=cluster.scheduler_address,
                       progress=False)
    assert len(open_state(again).finished()) > 10


def test_an_interrupted_dask_run_stops_its_workers(folder, cluster, monkeypatch):
    from nnunet_neuro.predict import dask_engine

    state = open_state(folder)
    looks = []

    def interrupted() -> None:
        looks.append(len(state.finished()))
        if looks[-1] > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dask_engine.compute_on_cluster(Coordinates(folder, seconds=0.1), BLOCKS, state, interrupted, address=cluster.scheduler_address,
                                       patience=0.1)
    time.sleep(0.5)
    done = len(state.finished())
    time.sleep(1)
    assert len(state.finished()) == done < len(BLOCKS)  # no run went on to its end
    compute_blocks(Coordinates(folder), BLOCKS, state, progress=False)
    check_complete(folder, state)


def test_no_scheduler_is_one_sentence(folder, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("nnunet_neuro.predict.dask_engine._LONGEST_CONNECTING", "1s")
    with pytest.raises(OSError, match="no dask scheduler answers at tcp://127.0.0.1:9") as error:
        compute_blocks(Coordinates(folder), BLOCKS, open_state(folder), scheduler="tcp://127.0.0.1:9", progress=False)
    assert "\n" not in str(error.value)


def test_missing_dask_is_one_sentence(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r"pip install 'nnunet_neuro\[cluster\]'"):
        compute_blocks(Coordinates(folder), BLOCKS, open_state(folder), scheduler="tcp://127.0.0.1:9", progress=False)
    assert (written(folder) == 255).all()
