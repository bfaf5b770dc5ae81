"""The viewer: what its server gives to whom, volumes as Zarr, and the page in a real browser."""

from __future__ import annotations

import http.client
import io
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import tifffile

from nnunet_neuro.colours import class_colour
from nnunet_neuro.commands import view
from nnunet_neuro.predict.pyramid import build_pyramid
from nnunet_neuro.predict.store import FurtherArray, LabelStore, StoreLayout
from nnunet_neuro.viewer import volume_zarr
from nnunet_neuro.viewer.server import DataServer
from nnunet_neuro.viewer.volume_zarr import VolumeZarr
from nnunet_neuro.volumes import open_volume

CHROMIUM = Path("/usr/bin/chromium")
SHAPE = (40, 150, 170)


def get(address: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=10) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), dict(error.headers)


@pytest.fixture
def served(tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "numbers").write_bytes(bytes(range(100)))
    (tmp_path / "secret").write_text("not for you")

    def failing(key):
        raise ValueError("chunk 3 is damaged")

    with DataServer({"files": tmp_path / "open", "made": {"info": b"abc"}.get, "bad": failing}) as server:
        yield server


def test_files_and_computed_keys_are_served_to_every_viewer(served):
    status, content, headers = get(f"{served.address}/files/numbers")
    assert status == 200 and content == bytes(range(100)) and headers["Access-Control-Allow-Origin"] == "*"
    assert get(f"{served.address}/made/info")[:2] == (200, b"abc")
    assert get(f"{served.address}/made/other")[0] == 404 and get(f"{served.address}/nothing/info")[0] == 404
    assert get(f"{served.address}/bad/0")[:2] == (500, b"chunk 3 is damaged")


@pytest.mark.parametrize(("asked", "expected", "place"), [
    ("bytes=0-9", bytes(range(10)), "bytes 0-9/100"), ("bytes=90-", bytes(range(90, 100)), "bytes 90-99/100"),
    ("bytes=-5", bytes(range(95, 100)), "bytes 95-99/100"), ("bytes=95-300", bytes(range(95, 100)), "bytes 95-99/100"),
])
def test_parts_of_files_are_served(served, asked, expected, place):
    status, content, headers = get(f"{served.address}/files/numbers", Range=asked)
    assert (status, content, headers["Content-Range"]) == (206, expected, place)


def test_a_part_beyond_the_end_and_several_parts(served):
    assert get(f"{served.address}/files/numbers", Range="bytes=100-")[0] == 416
    assert get(f"{served.address}/files/numbers", Range="bytes=0-1,5-6")[:2] == (200, bytes(range(100)))


@pytest.mark.parametrize("key", ["../secret", "%2e%2e/secret", "..%2fsecret", "/etc/hostname", "%2Fetc%2Fhostname", "", "link"])
def test_nothing_beside_the_folder_is_served(served, tmp_path, key):
    (tmp_path / "open" / "link").symlink_to(tmp_path / "secret")
    address = urlsplit(served.address)
    connection = http.client.HTTPConnection(address.netloc, timeout=10)  # sends the path as it is
    connection.request("GET", f"{address.path}/files/{key}")
    assert connection.getresponse().status == 404
    connection.close()


def test_who_does_not_know_the_word_gets_nothing(served):
    address = urlsplit(served.address)
    assert get(f"http://{address.netloc}/files/numbers")[0] == 404
    assert get(f"http://{address.netloc}/wrong/files/numbers")[0] == 404
    assert address.hostname == "127.0.0.1" and len(address.path) > 12


def test_preflight_and_head(served):
    address = urlsplit(served.address)
    connection = http.client.HTTPConnection(address.netloc, timeout=10)
    connection.request("OPTIONS", f"{address.path}/files/numbers")
    answer = connection.getresponse()
    assert answer.status == 204 and "Range" in answer.headers["Access-Control-Allow-Headers"] and answer.read() == b""
    connection.request("HEAD", f"{address.path}/files/numbers")
    answer = connection.getresponse()
    assert answer.status == 200 and answer.headers["Content-Length"] == "100" and answer.read() == b""
    connection.close()


def test_a_taken_port_is_named(served):
    port = urlsplit(served.address).port
    with pytest.raises(OSError, match=f"port {port} of this machine is taken"):
        DataServer({}, port=port)


def write_image(folder: Path, dtype: str) -> tuple[Path, np.ndarray]:
    image = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 200, SHAPE).astype(dtype)
    np.save(folder / "image.npy", image)
    return folder / "image.npy", image


@pytest.mark.parametrize("kept", [0, 3_000_000, 10**9])  # chunk by chunk, slab by slab, all at once
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float64", "bool"])
def test_any_volume_is_a_zarr_with_every_second_voxel_at_each_level(tmp_path, monkeypatch, dtype, kept):
    monkeypatch.setattr(volume_zarr, "_KEPT_BYTES", kept)
    path, image = write_image(tmp_path, dtype)
    reader = VolumeZarr(open_volume(path), (2.0, 1.0, 1.0), "micrometer", "image")
    copy = tmp_path / "copy.zarr"
    keys = [".zgroup", ".zattrs"] + [f"{level}/.zarray" for level in range(4)]
    keys += [f"{level}/{z}/{y}/{x}" for level in range(4) for z in range(4) for y in range(3) for x in range(3)]
    for key in keys:
        content = reader(key)
        if content is not None:
            (copy / key).parent.mkdir(parents=True, exist_ok=True)
            (copy / key).write_bytes(content)
    for level, step in enumerate([(1, 1, 1), (1, 2, 2), (2, 4, 4), (4, 8, 8)]):
        volume = open_volume(copy / str(level))
        assert np.array_equal(volume.read(), image[tuple(slice(None, None, one) for one in step)].astype(volume.dtype))
        assert volume.spacing == tuple(size * one for size, one in zip((2.0, 1.0, 1.0), step))
    assert all(reader(key) is None for key in ("0/9/0/0", "4/.zarray", "0/0/0", "0/0/0/-1", "x", "0", "../0/.zarray"))


def make_prediction(folder: Path) -> LabelStore:
    """A block in the middle, and the image that it would come from."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[10:30, 40:110, 50:120] = 1
    layout = StoreLayout(SHAPE, spacing=(2.0, 1.0, 1.0), chunk=(32, 64, 64), classes={"background": 0, "axon": 1},
                         further=(FurtherArray("entropy"),))
    store = LabelStore.create(folder / "out.zarr", layout)
    store.write((slice(None),) * 3, labels)
    store.write((slice(None),) * 3, labels.astype(np.float32), "entropy")
    build_pyramid(store, progress=False)
    tifffile.imwrite(folder / "image.tif", (labels * 0 + np.arange(SHAPE[2])).astype(np.uint16), metadata={"axes": "ZYX"})
    return store


def run_view(monkeypatch, arguments: list[str], during) -> int:
    """`nnneuro_view` that is interrupted after `during`."""

    def wait():
        during()
        raise KeyboardInterrupt

    monkeypatch.setattr(view, "wait_for_interruption", wait)
    return view.main(arguments)


def test_the_command_prints_a_link_that_works(tmp_path, monkeypatch, capsys):
    pytest.importorskip("neuroglancer")
    make_prediction(tmp_path)
    seen = []

    def look():
        out, err = capsys.readouterr()
        seen.append(get(out.strip()))
        labels = next(word for word in err.split() if word.startswith("http"))
        seen.append(get(f"{labels}.zattrs"))

    opened = []
    monkeypatch.setattr(view.webbrowser, "open", opened.append)
    arguments = [str(tmp_path / "out.zarr"), "--image", str(tmp_path / "image.tif")]
    assert run_view(monkeypatch, [*arguments, "--no-browser"], look) == 0 and not opened
    assert seen[0][0] == 200 and b"<script" in seen[0][1]
    assert seen[1][0] == 200 and b"multiscales" in seen[1][1]
    assert run_view(monkeypatch, arguments, look) == 0 and len(opened) == 1 and opened[0].startswith("http://127.0.0.1:")


@pytest.mark.parametrize(("arguments", "words"), [
    (["nothing.zarr"], "no prediction nothing.zarr; check the path"), (["."], "is no prediction of this program"),
    (["out.zarr", "--image", "nothing.tif"], "no file nothing.tif"),
    (["out.zarr", "--image", "small.tif"], "has shape (3, 4, 5), but the prediction"),
])
def test_bad_input_ends_in_one_sentence(tmp_path, monkeypatch, capsys, arguments, words):
    pytest.importorskip("neuroglancer")
    monkeypatch.chdir(tmp_path)
    make_prediction(tmp_path)
    tifffile.imwrite(tmp_path / "small.tif", np.zeros((3, 4, 5), np.uint8), photometric="minisblack")
    assert view.main(arguments) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


def test_without_the_extra_it_says_how_to_install_it(tmp_path, monkeypatch, capsys):
    make_prediction(tmp_path)
    monkeypatch.setitem(sys.modules, "neuroglancer", None)
    assert view.main([str(tmp_path / "out.zarr")]) == 2
    assert capsys.readouterr().err == ("nnneuro_view: error: the viewer needs neuroglancer; install it with: pip install "
                                       "'nnunet_neuro[view]'\n")


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium")
def test_a_browser_shows_image_and_labels(tmp_path):
    pytest.importorskip("neuroglancer")
    from PIL import Image

    from nnunet_neuro.viewer.neuroglancer_page import open_page

    make_prediction(tmp_path)
    answered: Counter[tuple[str, int]] = Counter()
    page = open_page(tmp_path / "out.zarr", tmp_path / "image.tif",
                     log=lambda path, status: answered.update([(path.split("/")[0], status, path.count("/") == 4)]))
    flags = ["--headless", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync",
             "--disable-component-update", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
             "--ignore-gpu-blocklist", "--window-size=1000,800", f"--user-data-dir={tmp_path / 'profile'}", "--remote-debugging-port=0"]
    browser = subprocess.Popen([str(CHROMIUM), *flags, page.url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               start_new_session=True)
    try:
        shots: list = []
        # taken by the page itself when it has drawn everything; waits for ever if there is no page
        waiting = threading.Thread(target=lambda: shots.append(page.viewer.screenshot(size=(900, 700))), daemon=True)
        waiting.start()
        waiting.join(90)
        assert shots, f"no picture after 90 seconds; answered so far: {dict(answered)}"
    finally:
        os.killpg(browser.pid, signal.SIGKILL)
        browser.wait()
        page.close()
    picture = np.asarray(Image.open(io.BytesIO(shots[0].screenshot.image)).convert("RGB"), int)
    blue = np.array([int(class_colour(0)[place:place + 2], 16) for place in (1, 3, 5)])
    # the labels' colour over an image that brightens to the right: 60 % of the colour and 40 % of a grey
    grey = (picture - 0.6 * blue) / 0.4
    labelled = (np.ptp(grey, axis=-1) < 12) & (grey.mean(axis=-1) > -5) & (grey.mean(axis=-1) < 260)
    assert labelled.mean() > 0.02, "no labels in the picture"
    assert np.ptp(grey[labelled].mean(axis=-1)) > 60, "no image below the labels"
    for name in ("prediction", "image0"):
        assert answered[name, 200, True] > 0 and not any(status == 500 for _, status, _ in answered), dict(answered)
    assert answered["prediction", 404, True] == 0, "a stored chunk was not found"
