"""Cutouts of BossDB, read from a real HTTP service on loopback that misbehaves when told to."""

from __future__ import annotations

import argparse
import itertools
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnunet_neuro.bossdb import BossAccess, CutoutAddress, access_from, add_arguments, fetch, open_cutout, parse_address
from nnunet_neuro.bossdb.chunks import CHUNK_SHAPE, chunks_touching
from nnunet_neuro.bossdb.service import get_voxels
from nnunet_neuro.volumes.volume import Volume, derived
from tests import boss_server as service
from tests.boss_server import FINAL, PASSING, BossServer

CUBOID = (16, 512, 512)  # of BossDB, (z, y, x)
SHAPE = (40, 300, 280)  # 3 x 2 x 2 chunks
CHUNKS = 12
URI = "bossdb://lab/brain/image"


def random_voxels(shape: tuple[int, ...], dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 200, shape).astype(dtype)


@pytest.fixture
def voxels(boss_server) -> np.ndarray:
    """What the channel lab/brain/image of the service holds."""
    voxels = random_voxels(SHAPE)
    boss_server.add_channel("lab/brain/image", voxels, voxel_size=(6, 6, 30))
    return voxels


@pytest.fixture
def access(boss_server, tmp_path) -> BossAccess:
    return boss_server.access(tmp_path / "cache")


# --- addresses ---------------------------------------------------------------------------------------------------------------------

names = st.from_regex(r"\A[A-Za-z0-9_-]{1,20}\Z")
one_range = st.tuples(st.integers(0, 10**9), st.integers(1, 10**6)).map(lambda pair: (pair[0], pair[0] + pair[1]))
addresses = st.builds(CutoutAddress, names, names, names, st.integers(0, 30), st.tuples(*[st.none() | one_range] * 3))


@settings(deadline=None)
@given(addresses)
def test_an_address_is_read_as_it_is_written(address):
    assert parse_address(str(address)) == address


@settings(deadline=None)
@given(names, st.tuples(one_range, one_range, one_range), st.permutations("zyx"))
def test_all_spellings_of_ranges_mean_the_same(name, ranges, order):
    of = dict(zip("zyx", ranges))
    named = "&".join(f"{axis}={of[axis][0]}:{of[axis][1]}" for axis in order)
    plain = ",".join(f"{start}:{stop}" for start, stop in ranges)
    assert parse_address(f"bossdb://{name}/e/c?{named}") == parse_address(f"bossdb://{name}/e/c/0?{plain}") \
        == parse_address(f"bossdb://{name}/e/c/?{named}") == CutoutAddress(name, "e", "c", 0, ranges)


@settings(deadline=None)
@given(st.text(max_size=60) | st.text("bosdb:/?z=1,&y.x-", max_size=60).map("bossdb://a/b/c?".__add__))
def test_any_other_text_is_refused_in_one_sentence(text):
    try:
        address = parse_address(text)
    except ValueError as error:
        assert "\n" not in str(error) and str(error)
    else:
        assert parse_address(str(address)) == address


@pytest.mark.parametrize("text, says", [
    ("https://api.bossdb.io/lab/brain/image", "is no BossDB address"),
    ("lab/brain/image", "is no BossDB address"),
    ("bossdb://https://api.bossdb.io/lab/brain/image", "names a host"),
    ("bossdb://lab/brain", "has 2 parts"),
    ("bossdb://lab/brain/image/0/1", "has 5 parts"),
    ("bossdb://lab//image", "experiment '' is no BossDB name"),
    ("bossdb://../brain/image", "collection '..' is no BossDB name"),
    ("bossdb://lab/brain/..", "channel '..' is no BossDB name"),
    ("bossdb://lab/brain/im age", "is no BossDB name"),
    ("bossdb://lab/brain/im%2Fage", "is no BossDB name"),
    ("bossdb://lab/brain/image\\x", "is no BossDB name"),
    ("bossdb://lab/brain/image/fine", "resolution 'fine'"),
    ("bossdb://lab/brain/image/-1", "resolution '-1'"),
    ("bossdb://lab/brain/image/99", "resolution 99"),
    ("bossdb://lab/brain/image/²", "resolution '²'"),
    ("bossdb://lab/brain/image?", "gives 1 ranges"),
    ("bossdb://lab/brain/image?0:1,0:1", "gives 2 ranges"),
    ("bossdb://lab/brain/image?0:1,0:1,0:1,0:1", "gives 4 ranges"),
    ("bossdb://lab/brain/image?0:1,0:1,-4:1", "'-4:1' for axis x"),
    ("bossdb://lab/brain/image?z=5", "'5' for axis z"),
    ("bossdb://lab/brain/image?z=5:", "'5:' for axis z"),
    ("bossdb://lab/brain/image?z=5:9:2", "'5:9:2' for axis z"),
    ("bossdb://lab/brain/image?z=1.5:9", "'1.5:9' for axis z"),
    ("bossdb://lab/brain/image?z=9:9", "range z=9:9"),
    ("bossdb://lab/brain/image?z=9:5", "range z=9:5"),
    ("bossdb://lab/brain/image?z=" + "9" * 5000 + ":5", "for axis z"),
    ("bossdb://lab/brain/image?z=1:5&z=1:5", "a range for z twice"),
    ("bossdb://lab/brain/image?t=1:5", "'t=1:5' in"),
    ("bossdb://lab/brain/image?z=1:5&", "'' in"),
])
def test_each_wrong_address_is_named(text, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        parse_address(text)


@settings(deadline=None)
@given(st.data())
def test_chunks_cover_a_box_once_and_stay_in_one_cuboid(data):
    extent = data.draw(st.tuples(*[one_range.map(lambda r: (r[0] % 1000, r[0] % 1000 + r[1] % 900 + 1))] * 3))
    ranges = tuple(tuple(sorted(data.draw(st.lists(st.integers(*part), min_size=2, max_size=2, unique=True)))) for part in extent)
    covered = np.zeros([stop - start for start, stop in ranges], np.uint8)
    for chunk in chunks_touching(ranges, extent):
        for (start, stop), (first, last), size, cuboid in zip(chunk, extent, CHUNK_SHAPE, CUBOID):
            assert first <= start < stop <= last
            assert start % size == 0 or start == first
            assert stop % size == 0 or stop == last
            assert start // cuboid == (stop - 1) // cuboid
        part = tuple(slice(max(a, low) - low, min(b, high) - low) for (a, b), (low, high) in zip(chunk, ranges))
        assert covered[part].size
        covered[part] += 1
    assert (covered == 1).all()


# --- access ------------------------------------------------------------------------------------------------------------------------


def test_options_go_before_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("NNNEURO_BOSSDB_HOST", "http://127.0.0.1:1234")
    monkeypatch.setenv("NNNEURO_BOSSDB_TOKEN", "of-the-environment")
    monkeypatch.setenv("NNNEURO_CACHE", str(tmp_path / "a"))
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    access = access_from(parser.parse_args([]))
    assert (access.url, access.token, access.cache) == ("http://127.0.0.1:1234", "of-the-environment", tmp_path / "a")
    access = access_from(parser.parse_args(["--cache", str(tmp_path / "b"), "--bossdb-host", "boss.org", "--bossdb-token", "given"]))
    assert (access.url, access.token, access.cache) == ("https://boss.org", "given", tmp_path / "b")
    assert "of-the-environment" not in parser.format_help()


def test_without_anything_it_is_the_public_service(monkeypatch, tmp_path):
    for name in ("NNNEURO_BOSSDB_HOST", "NNNEURO_BOSSDB_TOKEN", "NNNEURO_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("INTERN_TOKEN", "of-intern")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    access = BossAccess.from_environment()
    assert (access.url, access.token) == ("https://api.bossdb.io", "public")
    assert access.cache == tmp_path / "nnunet_neuro" / "bossdb"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert BossAccess().cache == tmp_path / ".cache" / "nnunet_neuro" / "bossdb"


def test_a_relative_cache_is_that_of_the_folder_it_was_given_in(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    access = BossAccess(cache=Path("cache"))
    assert access.cache == tmp_path / "cache"


@pytest.mark.parametrize("options", [{"host": "https://x"}, {"host": "a/b"}, {"host": "a\nb"}, {"protocol": "ftp"}, {"token": "a\nb"},
                                     {"token": "a%b"}, {"token": ""}, {"timeout_seconds": 0}, {"tries": 0}])
def test_impossible_access_is_refused(options):
    with pytest.raises(ValueError, match="possible|copy it again") as caught:
        BossAccess(**options)
    assert "a%b" not in str(caught.value)


# --- reading -----------------------------------------------------------------------------------------------------------------------


def test_opening_asks_for_the_description_only(boss_server, voxels, access):
    volume = open_cutout(URI, access)
    assert (volume.shape, volume.dtype) == (SHAPE, np.uint8)
    assert volume.spacing == (0.03, 0.006, 0.006)
    assert volume.path == "bossdb://lab/brain/image/0?z=0:40&y=0:300&x=0:280"
    assert len(boss_server.requests) == 3 and not boss_server.cutouts
    assert {request.authorization for request in boss_server.requests} == {"Token public"}


@pytest.mark.parametrize("unit, size", [("nanometers", 1170), ("micrometers", 1.17), ("millimeters", 0.00117), ("centimeters", 0.000117)])
def test_voxel_sizes_are_micrometres(boss_server, access, unit, size):
    boss_server.add_channel("lab/brain/image", random_voxels((2, 3, 4)), voxel_size=(size, size * 2, size * 4), unit=unit)
    assert open_cutout(URI, access).spacing == (4.68, 2.34, 1.17)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint64"])
def test_types_of_boss_keep_their_values(boss_server, access, dtype):
    voxels = random_voxels((20, 30, 40), dtype)
    voxels[0, 0, 0] = np.iinfo(dtype).max
    boss_server.add_channel("lab/brain/image", voxels)
    volume = open_cutout(URI, access)
    assert volume.dtype == dtype
    for _ in ("from the service", "from the cache"):
        read = volume.read()
        assert read.dtype == dtype and np.array_equal(read, voxels)


def test_a_part_of_an_extent_of_which_most_was_never_filled(boss_server, access):
    voxels = random_voxels((60, 256, 256))
    boss_server.add_channel("prasad/prasad2020/image", voxels, (110, 900, 4600), extent=(720, 1420, 5805),
                            voxel_size=(1.17, 1.17, 1.17), unit="micrometers")
    volume = open_cutout("bossdb://prasad/prasad2020/image?z=110:170&y=900:1156&x=4600:4856", access)
    fetch([volume], access, progress=False)
    assert np.array_equal(volume.read(), voxels)
    assert len(boss_server.cutouts) == len(set(boss_server.cutouts)) == 5 * 2 * 2
    for path in boss_server.cutouts:
        for (start, stop), size in zip(_ranges_in(path), CUBOID):
            assert start // size == (stop - 1) // size


@pytest.mark.parametrize("isotropic", [False, True])
def test_coarser_levels(boss_server, access, isotropic):
    voxels = random_voxels((21, 30, 41))
    boss_server.add_channel("lab/brain/image", voxels, voxel_size=(4, 4, 40), levels=3, isotropic=isotropic)
    volume = open_cutout(URI + "/2", access)
    z = 4 if isotropic else 1
    assert np.array_equal(volume.read(), voxels[::z, ::4, ::4])
    assert volume.spacing == (0.04 * z, 0.016, 0.016)


def test_an_extent_that_does_not_begin_at_zero(boss_server, access):
    voxels = random_voxels((20, 30, 300))
    boss_server.add_channel("lab/brain/image", voxels, (10, 20, 100), start=(10, 20, 100))
    assert np.array_equal(open_cutout(URI, access).read(), voxels)
    assert _ranges_in(boss_server.cutouts[0]) == ((10, 16), (20, 50), (100, 256))
    with pytest.raises(ValueError, match=re.escape("is z 10:30, y 20:50, x 100:400; correct the ranges")):
        open_cutout(URI + "?z=0:20", access)


@pytest.mark.parametrize("ranges", ["z=0:41", "y=299:301", "x=280:281"])
def test_ranges_beyond_the_extent_name_it(boss_server, voxels, access, ranges):
    with pytest.raises(ValueError, match=re.escape("extent at resolution 0 is z 0:40, y 0:300, x 0:280")):
        open_cutout(f"{URI}?{ranges}", access)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_crops_and_planes_equal_the_array(boss_server, access, data):
    voxels = random_voxels(SHAPE)
    if not boss_server.requests:
        boss_server.add_channel("lab/brain/image", voxels)
    box = [tuple(sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True)))) for n in SHAPE]
    volume = open_cutout(URI + "?" + ",".join(f"{a}:{b}" for a, b in box), access)
    expected = voxels[tuple(slice(*part) for part in box)]
    crop = tuple(slice(*sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True)))) for n in volume.shape)
    assert np.array_equal(volume.read(crop), expected[crop])
    cut = volume.crop(crop)
    assert np.array_equal(cut.read(), expected[crop])
    index = data.draw(st.integers(0, cut.shape[0] - 1))
    assert np.array_equal(cut.plane(index).read(), expected[crop][index])


def test_sources_are_the_chunk_files(boss_server, voxels, access):
    volume = open_cutout(URI + "?z=10:20&y=0:10&x=250:260", access)
    sources = volume.sources()
    assert [source.name for source in sources] == [
        f"bossdb://lab/brain/image/0?z={z}&y=0:256&x={x}" for z in ("0:16", "16:32") for x in ("0:256", "256:280")]
    assert len(boss_server.cutouts) == 4
    assert all(source.file.is_file() and source.file.is_relative_to(access.folder / "lab/brain/image/0") for source in sources)
    assert [source.name for source in volume.plane(0).sources()] == [source.name for source in sources[:2]]
    assert np.array_equal(volume.read(), voxels[10:20, 0:10, 250:260])
    assert len(boss_server.cutouts) == 4


def test_the_same_voxels_make_the_same_file(boss_server, access, tmp_path):
    boss_server.add_channel("lab/brain/image", np.kron(random_voxels((16, 8, 8), "uint64"), np.ones((1, 32, 32), "uint64")))
    contents = set()
    for number in range(5):
        source, = open_cutout(URI, boss_server.access(tmp_path / str(number))).sources()
        contents.add(source.file.read_bytes())
    assert len(contents) == 1


def test_a_volume_can_be_sent_to_a_worker(boss_server, voxels, access):
    volume = pickle.loads(pickle.dumps(open_cutout(URI + "?z=3:20", access)))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        read = pool.submit(volume.crop((slice(1, 3), slice(0, 20), slice(0, 20))).read).result(timeout=60)
    assert np.array_equal(read, voxels[4:6, :20, :20])
    assert len(boss_server.cutouts) == 1


def test_a_forked_worker_makes_connections_of_its_own(boss_server, voxels, access):
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    volume = open_cutout(URI, access)
    volume.read((slice(0, 1), slice(0, 1), slice(0, 1)))
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        other = pool.submit(volume.read)
        here = volume.read()
        assert np.array_equal(other.result(timeout=60), here) and np.array_equal(here, voxels)


# --- the cache ---------------------------------------------------------------------------------------------------------------------


def test_a_second_run_works_without_the_service(boss_server, voxels, access):
    fetch([open_cutout(URI, access)], access, progress=False)
    boss_server.stop()
    volume = open_cutout(URI + "?x=5:100", access)
    fetch([volume], access, progress=False)
    assert np.array_equal(volume.read(), voxels[:, :, 5:100])
    assert volume.spacing == (0.03, 0.006, 0.006) and len(volume.sources()) == 6


def test_fetch_asks_for_each_chunk_once(boss_server, voxels, access):
    volumes = [open_cutout(f"{URI}?z={z}", access) for z in ("0:20", "5:40")]
    fetch(volumes, access, progress=False)
    fetch([*volumes, volumes[0].crop((slice(0, 3), slice(0, 3), slice(0, 3)))], access, progress=False)
    assert len(boss_server.cutouts) == len(set(boss_server.cutouts)) == CHUNKS


def test_fetch_of_crops_and_planes_takes_their_chunks_only(boss_server, voxels, access):
    volume = open_cutout(URI, access)
    fetch([volume.plane(20), volume.crop((slice(0, 2), slice(0, 300), slice(0, 9)))], access, progress=False)
    assert sorted(map(_ranges_in, boss_server.cutouts)) == [
        ((0, 16), (0, 256), (0, 256)), ((0, 16), (256, 300), (0, 256)),
        ((16, 32), (0, 256), (0, 256)), ((16, 32), (0, 256), (256, 280)),
        ((16, 32), (256, 300), (0, 256)), ((16, 32), (256, 300), (256, 280))]


def test_fetch_of_what_is_computed_from_a_cutout(boss_server, voxels, access):
    brighter = derived(open_cutout(URI, access), _plus_one, np.uint8)
    plane = derived(brighter.crop((slice(20, 40), slice(0, 9), slice(0, 9))).plane(15), _plus_one, np.uint8)
    fetch([plane], access, progress=False)
    assert list(map(_ranges_in, boss_server.cutouts)) == [((32, 40), (0, 256), (0, 256))]
    boss_server.stop()
    assert np.array_equal(plane.read(), voxels[35, :9, :9] + 2)


def test_fetch_passes_over_other_volumes_and_refuses_another_cache(boss_server, voxels, access, tmp_path):
    other = Volume(tmp_path / "a.tif", (1, 2, 3), np.dtype(np.uint8), None, _plus_one)
    fetch([other, derived(other, _plus_one, np.uint8)], access, progress=False)
    assert not boss_server.requests
    with pytest.raises(ValueError, match="fetch it with the same"):
        fetch([open_cutout(URI, access)], boss_server.access(tmp_path / "other"), progress=False)


def _plus_one(base, region):
    return base.read(region) + 1


@pytest.mark.parametrize("damage", ["flipped bit", "cut off", "empty", "digest alone", "of another chunk", "of another channel"])
def test_a_damaged_file_is_dropped_and_fetched_again(boss_server, voxels, access, damage, capsys):
    boss_server.add_channel("lab/brain/other", random_voxels(SHAPE, seed=1), voxel_size=(6, 6, 30))
    volume = open_cutout(URI, access)
    fetch([volume, open_cutout("bossdb://lab/brain/other", access)], access, progress=False)
    victim = volume.sources()[3].file
    content = victim.read_bytes()
    if damage == "of another chunk":
        shutil.copy(volume.sources()[7].file, victim)
    elif damage == "of another channel":
        shutil.copy(str(victim).replace("image", "other"), victim)
    else:
        flipped = content[:-100] + bytes([content[-100] ^ 1]) + content[-99:]
        victim.write_bytes({"flipped bit": flipped, "cut off": content[:-1], "empty": b"", "digest alone": content[:32]}[damage])
    before = len(boss_server.cutouts)
    assert np.array_equal(volume.read(), voxels)
    assert len(boss_server.cutouts) == before + 1
    assert f"warning: {victim} is damaged" in capsys.readouterr().err
    assert victim.read_bytes() == content


def test_a_damaged_file_is_neither_hashed_nor_kept(boss_server, voxels, access):
    volume = open_cutout(URI + "?z=0:9&y=0:9&x=0:9", access)
    source, = volume.sources()
    content = source.file.read_bytes()
    source.file.write_bytes(content[:-1])
    assert volume.sources()[0].file.read_bytes() == content
    source.file.write_bytes(content[:-1])
    boss_server.misbehave(["403"])
    with pytest.raises(PermissionError):
        volume.read()
    assert not source.file.exists()


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"channel": {"dtype": "uint8"}, "sha256": "0"}', "changed"])
def test_a_damaged_description_is_asked_for_again(boss_server, voxels, access, content, capsys):
    open_cutout(URI, access)
    path = access.folder / "lab/brain/image/channel.json"
    path.write_text(path.read_text().replace("uint8", "uint16") if content == "changed" else content)
    assert open_cutout(URI, access).dtype == np.uint8
    assert "channel.json is damaged" in capsys.readouterr().err
    assert len(boss_server.requests) == 6


def test_left_over_files_of_a_dead_process_are_removed(boss_server, voxels, access):
    open_cutout(URI, access)
    folder = access.cache / ".partial"
    for name, age in (("dead", 3600), ("alive", 0)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - age,) * 2)
    open_cutout(URI, access)
    assert [path.name for path in folder.iterdir()] == ["alive"]


def test_a_cache_that_cannot_be_written_is_named(boss_server, voxels, access):
    access.cache.parent.mkdir(exist_ok=True)
    access.cache.write_text("a file where the folder should be")
    with pytest.raises(OSError, match="cannot write .*channel.json .*give another folder with --cache"):
        open_cutout(URI, access)


FETCH = """
import sys
from pathlib import Path
from nnunet_neuro.bossdb import BossAccess, fetch, open_cutout
access = BossAccess(host=sys.argv[1], protocol="http", cache=Path(sys.argv[2]))
fetch([open_cutout(sys.argv[3], access)], access, connections=int(sys.argv[4]), progress=False)
"""


def _fetching(access: BossAccess, connections: int, **options) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", FETCH, access.host, str(access.cache), URI, str(connections)], **options)


def test_resumes_after_a_kill_without_fetching_twice(boss_server, access):
    voxels = random_voxels((800, 20, 20))  # 50 chunks
    boss_server.add_channel("lab/brain/image", voxels)
    boss_server.delay_seconds = 0.05
    process = _fetching(access, 1)
    deadline = time.monotonic() + 30
    while len(_chunk_files(access)) < 10:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    kept, asked = _chunk_files(access), len(boss_server.cutouts)
    assert 10 <= len(kept) < 50
    boss_server.delay_seconds = 0
    volume = open_cutout(URI, access)
    fetch([volume], access, progress=False)
    again = boss_server.cutouts[asked:]
    assert len(again) == len(set(again)) == 50 - len(kept)
    # only the request that was under way when the process died could be asked for again
    assert len(set(again) & set(boss_server.cutouts[:asked])) <= 1
    assert _chunk_files(access) >= kept
    boss_server.stop()
    assert np.array_equal(volume.read(), voxels)


def test_an_interruption_says_how_to_continue(boss_server, access, interruptible):
    boss_server.add_channel("lab/brain/image", random_voxels((800, 20, 20)))
    boss_server.delay_seconds = 0.05
    process = _fetching(access, 2, stderr=subprocess.PIPE, text=True)
    while len(_chunk_files(access)) < 5:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    done = int(re.search(r"KeyboardInterrupt: interrupted after (\d+) of 50 chunks of BossDB; run the same command again", told)[1])
    assert 0 < done <= len(_chunk_files(access)) < 50
    assert not list((access.cache / ".partial").iterdir())


def test_two_processes_share_a_cache(boss_server, access, capfd):
    voxels = random_voxels((800, 20, 20))
    boss_server.add_channel("lab/brain/image", voxels)
    boss_server.delay_seconds = 0.02
    processes = [_fetching(access, 2) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert "damaged" not in capfd.readouterr().err
    assert not list((access.cache / ".partial").iterdir())
    assert len(_chunk_files(access)) == 50 <= len(boss_server.cutouts) <= 100
    boss_server.stop()
    assert np.array_equal(open_cutout(URI, access).read(), voxels)


def test_processes_begin_at_different_chunks(boss_server, voxels, tmp_path):
    began = set()
    for number in range(8):
        access = boss_server.access(tmp_path / str(number))
        before = len(boss_server.cutouts)
        fetch([open_cutout(URI, access)], access, progress=False, connections=1)
        began.add(boss_server.cutouts[before])
    assert len(began) > 1


def test_two_processes_write_the_same_chunk(boss_server, voxels, access):
    """All threads of two processes ask for every chunk at the same time, and write it."""
    volume = open_cutout(URI, access)
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        reads = [future.result(timeout=60) for future in [pool.submit(volume.read) for _ in range(8)]]
    assert all(np.array_equal(read, voxels) for read in reads)
    assert not list((access.cache / ".partial").iterdir())


def _chunk_files(access: BossAccess) -> set[Path]:
    return set(access.cache.rglob("*.chunk"))


def _ranges_in(path: str) -> tuple[tuple[int, ...], ...]:
    """(z, y, x) of a cutout's path."""
    return tuple(tuple(int(number) for number in part.split(":")) for part in reversed(path.strip("/").split("/")[-3:]))


# --- faults ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", PASSING)
def test_a_passing_fault_of_a_cutout_is_overcome(boss_server, voxels, access, fault):
    volume = open_cutout(URI, _impatient(access))
    boss_server.misbehave([fault, fault, fault, fault])
    assert np.array_equal(volume.read((slice(0, 9), slice(0, 9), slice(0, 9))), voxels[:9, :9, :9])
    assert [request.fault for request in boss_server.requests if request.cutout] == [fault] * 4 + [None]
    assert len(set(boss_server.cutouts)) == 1


@pytest.mark.parametrize("fault", [fault for fault in PASSING if fault not in ("size", "blosc")])
def test_a_passing_fault_of_the_description_is_overcome(boss_server, voxels, access, fault):
    boss_server.misbehave([fault, None, fault, fault, None, fault], on="metadata")
    assert open_cutout(URI, _impatient(access)).shape == SHAPE
    assert len(boss_server.requests) == 7


_NO_VOXELS = "the answer holds no 16 x 256 x 256 uint8 voxels"
_SAYS = {"429": "status 429, 'Throttled'", "500": "status 500, 'Unhandled exception'", "503": "status 503",
         "stall": "no answer within 0.3 s", "reset": "ConnectionResetError", "short": "IncompleteRead",
         "size": _NO_VOXELS, "html": _NO_VOXELS, "blosc": _NO_VOXELS}


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_stays_ends_after_five_tries(boss_server, voxels, access, fault):
    volume = open_cutout(URI + "?z=0:9&y=0:9&x=0:9", _impatient(access))
    boss_server.misbehave(itertools.repeat(fault))
    with pytest.raises(OSError, match=re.escape(_SAYS[fault])) as caught:
        volume.read()
    assert "did not give bossdb://lab/brain/image/0?z=0:16&y=0:256&x=0:256 in 5 tries" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(boss_server.cutouts) == 5 and not _chunk_files(access)


@pytest.mark.parametrize("fault, error, says", [
    ("401", PermissionError, "does not know the token (401, 'Invalid token.')"),
    ("403", PermissionError, "the public token may not read"),
    ("404", FileNotFoundError, "check the spelling, names are case-sensitive"),
])
@pytest.mark.parametrize("on", ["cutout", "metadata"])
def test_a_refusal_is_final(boss_server, voxels, access, fault, error, says, on):
    if on == "cutout":
        volume = open_cutout(URI, access)
    boss_server.misbehave(itertools.repeat(fault), on=on)
    before = len(boss_server.requests)
    with pytest.raises(error, match=re.escape(says)) as caught:
        volume.read() if on == "cutout" else open_cutout(URI, access)
    assert len(boss_server.requests) == before + 1
    assert "\n" not in str(caught.value) and "lab/brain/image" in str(caught.value)


@pytest.mark.parametrize("path", ["Lab/brain/image", "lab/mouse/image", "lab/brain/em"])
def test_an_unknown_channel(boss_server, voxels, access, path):
    with pytest.raises(FileNotFoundError, match=f"has no channel {path} .*check the spelling"):
        open_cutout(f"bossdb://{path}", access)
    assert len(boss_server.requests) == 1 and not list(access.cache.rglob("*.json"))


def test_a_request_the_service_finds_wrong_is_not_repeated(boss_server, voxels, access):
    says = "refused bossdb://lab/brain/image/3?z=0:16&y=0:38&x=0:35 with status 400, 'Incorrect cutout arguments'"
    with pytest.raises(OSError, match=re.escape(says)):
        open_cutout(URI + "/3", access).read()
    assert len(boss_server.cutouts) == 1


def test_two_hundred_requests_with_ten_percent_faults(boss_server, tmp_path):
    voxels = random_voxels((3200, 20, 24), "uint16")
    boss_server.add_channel("lab/brain/image", voxels)
    boss_server.misbehave(rate=0.1, seed=0)
    access = _impatient(boss_server.access(tmp_path / "cache"))
    volume = open_cutout(URI, access)
    fetch([volume], access, progress=False)
    faults = [request.fault for request in boss_server.requests if request.fault]
    assert set(faults) == set(PASSING)
    assert len(boss_server.cutouts) == 200 + len(faults)
    boss_server.stop()
    assert volume.read().tobytes() == voxels.tobytes()


def test_the_service_decides_how_long_to_wait_within_a_limit(boss_server, voxels, access, tmp_path):
    for asked, at_least, at_most in (("1", 0.3, 0.9), ("0", 0, 0.25), ("Wed, 21 Oct 2099 07:28:00 GMT", 0.3, 0.9), ("soon", 0, 0.25)):
        boss_server.retry_after = asked
        patient = boss_server.access(tmp_path / asked[:2], longest_wait_seconds=0.3)
        volume = open_cutout(URI + "?z=0:9&y=0:9&x=0:9", patient)
        boss_server.misbehave(["429"])
        began = time.monotonic()
        volume.read()
        assert at_least <= time.monotonic() - began <= at_most, asked


def test_waits_grow_and_differ(boss_server, voxels, tmp_path):
    waits = []
    access = BossAccess(host=boss_server.host, protocol="http", cache=tmp_path)
    boss_server.misbehave((["500"] * 4 + [None]) * 2)
    for _ in range(2):
        get_voxels(access, parse_address(URI + "?0:9,0:9,0:9"), "uint8", waits.append)
    assert len(waits) == len(set(waits)) == 8
    for number, wait in enumerate(waits):
        assert 0.5 * 2 ** (number % 4) <= wait <= 1.5 * 2 ** (number % 4)


def test_one_failing_chunk_stops_the_others_soon_and_keeps_what_came(boss_server, access):
    boss_server.add_channel("lab/brain/image", random_voxels((800, 20, 20)))
    slow = BossAccess(host=access.host, protocol="http", cache=access.cache, first_wait_seconds=30)
    volume = open_cutout(URI, slow)
    # one connection waits half a minute for its second try when another is refused
    boss_server.misbehave(["500"] + [None] * 10 + ["403"])
    boss_server.delay_seconds = 0.02
    began = time.monotonic()
    with pytest.raises(PermissionError, match="the public token may not read"):
        fetch([volume], slow, progress=False, connections=3)
    assert time.monotonic() - began < 10
    assert 10 <= len(_chunk_files(access)) < 30
    fetch([volume], access, progress=False)
    assert len(_chunk_files(access)) == 50


def test_a_service_that_is_not_there(boss_server, access):
    boss_server.stop()
    with pytest.raises(OSError, match=r"did not give channel lab/brain/image in 5 tries, .*ConnectionRefusedError: .*refused"):
        open_cutout(URI, access)


def test_a_description_that_cannot_be_understood(boss_server, access, monkeypatch):
    boss_server.add_channel("lab/brain/image", random_voxels((2, 3, 4)), unit="parsecs")
    with pytest.raises(OSError, match="describes channel lab/brain/image in a way .*parsecs"):
        open_cutout(URI, access)
    assert len(boss_server.requests) == 3


def _impatient(access: BossAccess) -> BossAccess:
    return BossAccess(host=access.host, protocol="http", cache=access.cache, timeout_seconds=0.3, first_wait_seconds=0.005,
                      longest_wait_seconds=0.05)


# --- empty cutouts -----------------------------------------------------------------------------------------------------------------


def test_a_cutout_of_zeros_is_an_error_where_it_must_not_be(boss_server, access):
    boss_server.add_channel("kasthuri2015/em/cc", np.zeros((1, 1, 1), np.uint8), extent=(40, 300, 280))
    volume = open_cutout("bossdb://kasthuri2015/em/cc?z=1:30", access)
    says = re.escape("bossdb://kasthuri2015/em/cc/0?z=1:30&y=0:300&x=0:280 is zero everywhere")
    with pytest.raises(ValueError, match=says):
        volume.read()
    with pytest.raises(ValueError, match=says):
        fetch([volume], access, progress=False)
    assert not volume.plane(3).read().any()
    label = open_cutout("bossdb://kasthuri2015/em/cc?z=1:30", access, may_be_empty=True)
    fetch([label], access, progress=False)
    assert not label.read().any()


def test_a_single_voxel_is_enough_and_zeros_around_it_may_be_cut_out(boss_server, access):
    boss_server.add_channel("lab/brain/image", np.ones((1, 1, 1), np.uint8), (39, 299, 279))
    volume = open_cutout(URI, access)
    corner = volume.crop((slice(0, 5), slice(0, 5), slice(0, 5)))
    fetch([corner], access, progress=False)
    assert not corner.read().any() and len(boss_server.cutouts) == 1
    fetch([volume], access, progress=False)
    assert volume.read().sum() == 1
    # the voxel lies in a chunk of this cutout, but outside of it
    with pytest.raises(ValueError, match="is zero everywhere"):
        fetch([open_cutout(URI + "?z=0:39", access)], access, progress=False)


# --- the token, the connection -----------------------------------------------------------------------------------------------------

SECRET = "0123456789abcdef-our-secret"


def test_a_private_channel_needs_its_token(tmp_path, boss_server):
    boss_server.tokens.add(SECRET)
    voxels = random_voxels((4, 5, 6))
    boss_server.add_channel("lab/brain/image", voxels, public=False)
    with pytest.raises(PermissionError, match="the public token may not read channel lab/brain/image"):
        open_cutout(URI, boss_server.access(tmp_path))
    assert np.array_equal(open_cutout(URI, boss_server.access(tmp_path, token=SECRET)).read(), voxels)


@pytest.mark.parametrize("fault", [*FINAL, *PASSING])
def test_the_token_is_in_no_message_and_in_no_file(boss_server, voxels, access, fault, capsys, monkeypatch):
    boss_server.tokens.add(SECRET)
    monkeypatch.setitem(service._MESSAGES, "403", {"message": f"{SECRET} may not read this"})
    ours = BossAccess(host=access.host, protocol="http", cache=access.cache, token=SECRET, timeout_seconds=0.3, first_wait_seconds=0.001,
                      tries=2)
    volume = open_cutout(URI, ours)
    fetch([volume.plane(0)], ours)
    boss_server.misbehave(itertools.repeat(fault))
    with pytest.raises(OSError) as caught:
        volume.read()
    written = "".join(capsys.readouterr())
    told = [str(caught.value), repr(ours), repr(volume), written, *traceback.format_exception(caught.value)]
    assert not [text for text in told if SECRET in text]
    assert boss_server.requests[-1].authorization == f"Token {SECRET}"
    files = [path for path in access.cache.rglob("*") if path.is_file()]
    assert len(files) > 3
    assert not [path for path in files if SECRET.encode() in path.read_bytes() or SECRET in str(path)]


def test_netrc_and_settings_of_intern_do_not_replace_the_token(boss_server, voxels, access, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name, value in (("PROTOCOL", "https"), ("HOST", "example.org"), ("TOKEN", "other")):
        monkeypatch.setenv(f"INTERN_{name}", value)
    open_cutout(URI, access).read()
    assert {request.authorization for request in boss_server.requests} == {"Token public"}


def test_every_request_has_a_timeout_and_verifies(boss_server, voxels, access, monkeypatch):
    import requests

    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    sent = []
    send = requests.Session.send
    monkeypatch.setattr(requests.Session, "send", lambda self, request, **options: sent.append(options) or send(self, request, **options))
    fetch([open_cutout(URI, access)], access, progress=False)
    assert len(sent) == 3 + CHUNKS
    assert {options["timeout"] for options in sent} == {60}
    assert all(options["verify"] is True for options in sent)


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path, monkeypatch):
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    pem = tmp_path / "server.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext",
                    "subjectAltName=IP:127.0.0.1", "-keyout", str(pem), "-out", str(tmp_path / "certificate.pem")],
                   check=True, capture_output=True)
    pem.write_text(pem.read_text() + (tmp_path / "certificate.pem").read_text())
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    with BossServer(certificate=pem) as server:
        voxels = random_voxels((4, 5, 6))
        server.add_channel("lab/brain/image", voxels)
        with pytest.raises(OSError, match="the certificate of 127.0.0.1:.* could not be verified"):
            open_cutout(URI, server.access(tmp_path / "cache"))
        assert not server.requests
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "certificate.pem"))
        assert np.array_equal(open_cutout(URI, server.access(tmp_path / "cache", tries=1)).read(), voxels)


def test_the_proxy_of_the_environment_is_used(boss_server, voxels, tmp_path, monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("http_proxy", boss_server.address)
    access = BossAccess(host="boss.invalid", protocol="http", cache=tmp_path, tries=1)
    assert np.array_equal(open_cutout(URI, access).read(), voxels)
    assert len(boss_server.requests) == 3 + CHUNKS


def test_import_is_light():
    heavy = ("intern", "requests", "tqdm", "blosc", "torch", "scipy")
    code = f"import sys, nnunet_neuro.bossdb; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_progress_is_shown_in_voxels_and_megabytes(boss_server, voxels, access, capsys):
    boss_server.delay_seconds = 0.1
    fetch([open_cutout(URI, access)], access)
    shown = capsys.readouterr().err
    assert "voxel/s" in shown and re.search(r"\d MB/s", shown)


@pytest.mark.network
@pytest.mark.skipif(os.environ.get("NNNEURO_NETWORK_TESTS") != "1", reason="needs the internet; NNNEURO_NETWORK_TESTS=1 runs it")
def test_the_real_service(tmp_path):
    access = BossAccess(cache=tmp_path)
    volumes = [open_cutout(f"bossdb://Kasthuri/ac4/{channel}?z=0:4&y=0:64&x=0:64", access, may_be_empty=channel != "em")
               for channel in ("em", "membrane", "synapse")]
    fetch(volumes, access, progress=False)
    image = volumes[0]
    assert (image.shape, image.dtype) == ((4, 64, 64), np.uint8)
    assert image.spacing is not None and all(size > 0 for size in image.spacing)
    assert len(np.unique(image.read())) > 50
