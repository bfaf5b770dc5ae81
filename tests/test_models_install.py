"""Installation: from the package, nnU-Net's zip and the web; whole or not at all, whoever is killed meanwhile."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.model_sharing.model_export import export_pretrained_model
from nnunetv2.utilities.file_path_utilities import get_output_folder

from nnunet_neuro.commands.models import main
from nnunet_neuro.models.catalogue import VARIABLE, catalogue
from nnunet_neuro.models.install import STAGING, install
from nnunet_neuro.models.installed import model_folder
from nnunet_neuro.models.model_folder import RECORD, sha256_of
from tests.model_zips import DATASET, MODEL, good_members, write_zip
from tests.tiny_models import nnunet_labels, tiny_model

SHIPPED = next(entry for entry in catalogue().values() if entry.folder is not None)
IMAGE = np.random.default_rng(0).integers(1, 200, (1, 20, 30, 25)).astype(np.float32)


@pytest.fixture
def results(nnunet_folders) -> Path:
    return nnunet_folders.results


@pytest.fixture
def zipped(tmp_path: Path) -> Path:
    return write_zip(tmp_path / "model.zip")


def refusal(capsys, *words: str | Path) -> str:
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if line.startswith("nnneuro_models: error: ")]
    assert len(lines) == 1 and shown.out == ""
    return lines[0]


def files_below(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_whole(results: Path, dataset: str = DATASET) -> None:
    """The model of the zip is there with every file, and nothing else is."""
    names = [name.partition("/")[2] for name in good_members()]
    assert set(files_below(results)) == {f"{dataset}/{name}" for name in [*names, f"{MODEL}/{RECORD}"]}
    assert all((results / dataset / name.partition("/")[2]).read_bytes() == content for name, content in good_members().items())


# --- by name -----------------------------------------------------------------------------------------------------------------------


def test_a_shipped_model_is_installed_where_nnunet_looks(results, capsys):
    assert main(["install", SHIPPED.name]) == 0
    folder = results / SHIPPED.dataset / SHIPPED.model
    assert capsys.readouterr().out == f"{folder}\n"
    _, plans, configuration = SHIPPED.model.split("__")
    assert Path(get_output_folder(SHIPPED.dataset, "nnUNetTrainer", plans, configuration)) == folder
    assert files_below(folder).items() >= dict(SHIPPED.files).items()
    assert main(["list"]) == 0 and re.search(rf"^{SHIPPED.name} .* yes$", capsys.readouterr().out, re.MULTILINE)
    assert main(["verify", SHIPPED.name]) == 0
    assert capsys.readouterr().out.splitlines() == [str(SHIPPED.folder), str(folder)]
    assert sorted(path.name for path in results.iterdir()) == [SHIPPED.dataset]


def test_a_damaged_package_is_told(results, capsys, tmp_path, monkeypatch):
    copy = tmp_path / "listed"
    tiny_model(copy / MODEL)
    entry = {"name": "tiny", "summary": "a tiny one", "dataset": DATASET, "model": MODEL, "licence": "CC0", "bytes": 1, "folder": MODEL,
             "files": {name: sha256_of(copy / MODEL / name) for name in ("plans.json", "dataset.json", "fold_0/checkpoint_final.pth")}}
    (copy / "mine.json").write_text(json.dumps({"models": [entry]}))
    monkeypatch.setenv(VARIABLE, str(copy / "mine.json"))
    (copy / MODEL / "fold_0" / "checkpoint_final.pth").write_bytes(b"other")
    message = refusal(capsys, "install", "tiny")
    assert f"{copy / MODEL}/fold_0/checkpoint_final.pth has the SHA-256" in message and "install nnunet_neuro again" in message
    (copy / MODEL / "fold_0" / "checkpoint_final.pth").unlink()
    assert "no fold_0/checkpoint_final.pth in" in refusal(capsys, "install", "tiny")
    assert not list(results.iterdir())


def test_unknown_names_list_what_there_is(results, capsys):
    assert f"choose one of {', '.join(sorted(catalogue()))}" in refusal(capsys, "install", "no_such_model")
    assert "no file" in refusal(capsys, "install", "no_such.zip")
    assert "no address of the web" in refusal(capsys, "install", "ftp://127.0.0.1/model.zip")
    assert "leave it out" in refusal(capsys, "install", SHIPPED.name, "--sha256", "0" * 64)


def test_the_results_folder_must_be_known(capsys, monkeypatch):
    monkeypatch.delenv("nnUNet_results", raising=False)
    assert "nnUNet_results is not set" in refusal(capsys, "install", SHIPPED.name)
    assert main(["list"]) == 0 and re.search(rf"^{SHIPPED.name} .* \?$", capsys.readouterr().out, re.MULTILINE)


def test_a_results_folder_that_cannot_be_is_refused(zipped, tmp_path, capsys, monkeypatch):
    assert f"{zipped} is a file; expected the folder" in refusal(capsys, "install", zipped, "--results", zipped)
    assert "no folder" in (sentence := refusal(capsys, "verify", "--all", "--results", tmp_path / "none")) and "--results" in sentence
    (tmp_path / "readable").mkdir()
    monkeypatch.setattr("nnunet_neuro.models.install.os.access", lambda path, mode: False)
    assert "no permission to write into the results folder" in refusal(capsys, "install", zipped, "--results", tmp_path / "readable")
    assert not list((tmp_path / "readable").iterdir())


def test_a_card_is_not_written_where_a_folder_is(tmp_path, capsys):
    assert "is a folder" in refusal(capsys, "show", SHIPPED.name, "--html", tmp_path)
    assert "lies in no folder that is there" in refusal(capsys, "show", SHIPPED.name, "--html", tmp_path / "none" / "card.html")
    assert not list(tmp_path.iterdir()) and not tmp_path.with_name(f"{tmp_path.name}.part").exists()


# --- from a zip --------------------------------------------------------------------------------------------------------------------


def test_what_nnunet_exports_predicts_the_same_after_installation(results, nnunet_folders, tmp_path, capsys, monkeypatch):
    source = tmp_path / "trained"
    model = tiny_model(source / DATASET / MODEL, folds=(0, 1))
    (model / "dataset_fingerprint.json").write_text("{}")
    for fold in (0, 1):
        (model / f"fold_{fold}" / "validation").mkdir()
        for name in ("progress.png", "validation/summary.json", "debug.json"):
            (model / f"fold_{fold}" / name).write_text("{}")
    monkeypatch.setenv("nnUNet_results", str(source))
    with contextlib.redirect_stdout(io.StringIO()):
        export_pretrained_model(DATASET, str(tmp_path / "exported.zip"), ("3d_fullres",), "nnUNetTrainer", "nnUNetPlansTiny", (0, 1))
    monkeypatch.setenv("nnUNet_results", str(results))
    assert main(["install", str(tmp_path / "exported.zip"), "--sha256", sha256_of(tmp_path / "exported.zip").upper()]) == 0
    installed = Path(capsys.readouterr().out.strip())
    assert installed == results / DATASET / MODEL
    assert {name: digest for name, digest in files_below(installed).items() if name != RECORD} == {
        name: digest for name, digest in files_below(model).items() if not name.startswith("by_nnunet")}
    np.testing.assert_array_equal(nnunet_labels(installed, IMAGE, folds=(0, 1)), nnunet_labels(model, IMAGE, folds=(0, 1)))


def test_another_number_can_be_given(results, zipped):
    assert install(str(zipped), dataset_id=42) == [results / "Dataset042_Tiny" / MODEL]
    assert_whole(results, "Dataset042_Tiny")
    with pytest.raises(ValueError, match="1 to 999"):
        install(str(zipped), dataset_id=1000)


def test_nothing_is_overwritten_without_being_told(results, zipped, capsys):
    assert main(["install", str(zipped)]) == 0
    capsys.readouterr()
    checkpoint = results / DATASET / MODEL / "fold_0" / "checkpoint_final.pth"
    checkpoint.write_bytes(b"mine")
    message = refusal(capsys, "install", zipped)
    assert "is there already and was installed before; give --overwrite" in message
    assert checkpoint.read_bytes() == b"mine"
    assert main(["install", str(zipped), "--overwrite"]) == 0
    assert_whole(results)
    (results / DATASET / MODEL / RECORD).unlink()
    assert "trained here or copied by hand" in refusal(capsys, "install", zipped)


def test_other_models_of_the_dataset_stay(results, zipped):
    other = results / DATASET / "nnUNetTrainer__nnUNetPlans__2d" / "plans.json"
    other.parent.mkdir(parents=True)
    other.write_text("{}")
    install(str(zipped))
    assert other.read_text() == "{}" and (results / DATASET / MODEL / RECORD).is_file()


@pytest.mark.parametrize("place", ["raw", "preprocessed", "results"])
def test_a_number_belongs_to_one_dataset(place, nnunet_folders, zipped, capsys):
    (getattr(nnunet_folders, place) / "Dataset001_Others").mkdir()
    for option in ([], ["--overwrite"]):
        message = refusal(capsys, "install", zipped, *option)
        assert "the number 001" in message and "Dataset001_Others" in message and "-d" in message
    assert not (nnunet_folders.results / DATASET).exists()
    assert main(["install", str(zipped), "-d", "2"]) == 0


# --- killed ------------------------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from nnunet_neuro.models import install
real, left = os.rename, [int(sys.argv[2])]
def rename(source, target):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    real(source, target)
os.rename = rename
install.install(sys.argv[1], overwrite=True)
"""


def killed_before_rename(number: int, path: Path) -> None:
    """Install in a process that is killed before it moves something for the n-th time."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(number)], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_kill_leaves_nothing_under_the_final_name(results, zipped):
    killed_before_rename(0, zipped)
    assert not list(results.glob("Dataset*")) and (results / STAGING).is_dir()
    install(str(zipped))
    assert_whole(results)


def test_a_model_that_was_being_replaced_comes_back(results, zipped, capsys):
    install(str(zipped))
    (results / DATASET / MODEL / "fold_0" / "debug.json").write_text("the old one")
    killed_before_rename(1, zipped)
    assert not (results / DATASET / MODEL).exists()
    assert "is there already" in refusal(capsys, "install", zipped)
    assert (results / DATASET / MODEL / "fold_0" / "debug.json").read_text() == "the old one"
    assert not (results / STAGING).exists()
    install(str(zipped), overwrite=True)
    assert_whole(results)


def test_one_installation_at_a_time(results, zipped, capsys):
    from filelock import FileLock

    with FileLock(results / f"{STAGING}.lock"):
        assert "another installation" in refusal(capsys, "install", zipped)


# --- from the web ------------------------------------------------------------------------------------------------------------------


class Web:
    """A server on this machine that gives one file, and cuts connections as often as it is told.

    Attributes:
        content: the file.
        tag: its version.
        cuts: numbers of bytes after which the next connections end.
        ranges: whether parts may be asked for.
        starts: first byte of each answer.
    """

    def __init__(self, content: bytes):
        self.content, self.tag, self.ranges = content, '"one"', True
        self.cuts: list[int] = []
        self.starts: list[int] = []
        self.url = ""


@pytest.fixture
def web(zipped, tmp_path, monkeypatch) -> Iterator[Web]:
    site = Web(zipped.read_bytes())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if not self.path.endswith("model.zip"):
                self.send_error(404)
                return
            same = self.headers.get("If-Range", site.tag) == site.tag
            start = int(wanted[1]) if wanted and site.ranges and same else 0
            site.starts.append(start)
            if start >= len(site.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(site.content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(site.content) - start))
            if site.tag:
                self.send_header("ETag", site.tag)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(site.content) - 1}/{len(site.content)}")
            self.end_headers()
            self.wfile.write(site.content[start:start + site.cuts.pop(0)] if site.cuts else site.content[start:])

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}/model.zip"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("nnunet_neuro.models.download.ResumableDownloader._wait", lambda self, failures: None)
    yield site
    server.shutdown()
    server.server_close()


def cached(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())


def test_a_connection_that_is_cut_is_continued(web, results, tmp_path, capsys):
    web.cuts = [5_000, 7_000]
    assert main(["install", web.url, "--sha256", hashlib.sha256(web.content).hexdigest()]) == 0
    assert web.starts == [0, 5_000, 12_000]
    shown = capsys.readouterr()
    assert shown.out == f"{results / DATASET / MODEL}\n" and "model.zip: 100%" in shown.err
    assert_whole(results)
    assert not cached(tmp_path)


def test_a_later_call_continues(web, results, tmp_path, capsys):
    web.cuts = [6_000, 0, 0, 0, 0, 0, 0, 0]
    message = refusal(capsys, "install", web.url)
    assert "broke off after 6000 bytes" in message and "again to continue" in message
    assert cached(tmp_path) == ["lock", "part", "part.json"]
    web.cuts, web.starts = [], []
    assert main(["install", web.url]) == 0
    assert web.starts == [6_000]
    assert f"SHA-256 {hashlib.sha256(web.content).hexdigest()}" in capsys.readouterr().err
    assert_whole(results)


@pytest.mark.parametrize("change", ["tag", "ranges"])
def test_a_file_that_changed_is_fetched_anew(change, web, results, tmp_path, capsys):
    web.cuts = [6_000, 0, 0, 0, 0, 0, 0, 0]
    refusal(capsys, "install", web.url)
    setattr(web, change, '"two"' if change == "tag" else False)
    web.content = write_zip(tmp_path / "other.zip", {**good_members(), f"{DATASET}/{MODEL}/fold_0/debug.json": b"[1]"}).read_bytes()
    web.cuts, web.starts = [], []
    assert main(["install", web.url]) == 0
    assert web.starts == [0]
    assert (results / DATASET / MODEL / "fold_0" / "debug.json").read_bytes() == b"[1]"


def test_a_file_that_is_whole_already_is_not_fetched_again(web, results, tmp_path, capsys):
    web.cuts = [6_000, 0, 0, 0, 0, 0, 0, 0]
    refusal(capsys, "install", web.url)
    part = next((tmp_path / "cache").rglob("part"))
    part.write_bytes(web.content)
    web.cuts, web.starts = [], []
    assert main(["install", web.url]) == 0
    assert web.starts == [len(web.content)]
    assert_whole(results)


@pytest.mark.parametrize("known", [True, False])
def test_a_part_that_is_too_long_is_fetched_anew(known, web, results, tmp_path, capsys):
    web.cuts = [6_000, 0, 0, 0, 0, 0, 0, 0]
    digest = ["--sha256", hashlib.sha256(web.content).hexdigest()] if known else []
    refusal(capsys, "install", web.url, *digest)
    next((tmp_path / "cache").rglob("part")).write_bytes(web.content + b"x")
    web.cuts, web.starts = [], []
    assert main(["install", web.url, *digest]) == 0
    assert web.starts == [len(web.content) + 1, 0]
    assert_whole(results)


def test_a_file_without_a_version_is_continued_only_if_its_hash_is_known(web, results, capsys):
    web.tag, web.cuts = "", [6_000]
    assert main(["install", web.url]) == 0
    assert web.starts == [0, 0]
    web.cuts, web.starts = [6_000], []
    assert main(["install", web.url, "--overwrite", "--sha256", hashlib.sha256(web.content).hexdigest()]) == 0
    assert web.starts == [0, 6_000]


def test_another_hash_is_refused_before_unpacking(web, results, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("nnunet_neuro.models.install.open_archive", lambda path: pytest.fail("opened"))
    message = refusal(capsys, "install", web.url, "--sha256", "0" * 64)
    assert f"another SHA-256 than the expected {'0' * 64}" in message
    assert not cached(tmp_path) and not list(results.iterdir())


def test_an_address_that_is_not_there(web, results, tmp_path, capsys):
    assert "the server answered 404" in refusal(capsys, "install", web.url.replace("model", "other"))
    assert not list(results.iterdir()) and not cached(tmp_path)


def test_a_listed_address_is_installed_by_name(web, results, tmp_path, capsys, monkeypatch):
    entry = {"name": "far", "summary": "a far one", "dataset": DATASET, "model": MODEL, "licence": "CC0", "bytes": len(web.content),
             "url": web.url, "sha256": hashlib.sha256(web.content).hexdigest()}
    (tmp_path / "mine.json").write_text(json.dumps({"models": [entry]}))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "mine.json"))
    with pytest.raises(ValueError, match="nnneuro_models install far"):
        model_folder("far")
    assert "not installed" in refusal(capsys, "verify", "far")
    assert main(["install", "far"]) == 0
    assert model_folder("far") == results / DATASET / MODEL
    assert main(["verify", "--all"]) == 0
    web.content = web.content[:-1] + b"x"
    assert "another SHA-256" in refusal(capsys, "install", "far", "--overwrite")
    assert_whole(results)


# --- verified ----------------------------------------------------------------------------------------------------------------------


def flip_a_byte(folder: Path) -> None:
    path = folder / "fold_0" / "checkpoint_final.pth"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


WRONG = {
    "another byte": (flip_a_byte, "has the SHA-256"),
    "a missing file": (lambda folder: (folder / "dataset.json").unlink(), "no dataset.json"),
    "a further checkpoint": (lambda folder: (folder / "fold_0" / "checkpoint_best.pth").write_bytes(b""), "does not belong"),
    "a damaged record": (lambda folder: (folder / RECORD).write_text("{"), f"{RECORD} is damaged"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_told_with_exit_code_1(what, results, zipped, capsys):
    folder = install(str(zipped))[0]
    WRONG[what][0](folder)
    capsys.readouterr()
    assert main(["verify", str(folder)]) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and WRONG[what][1] in shown.err and str(folder) in shown.err and len(shown.err.splitlines()) == 1


def test_a_folder_without_hashes_is_verified_by_its_weights(tmp_path, capsys):
    folder = tiny_model(tmp_path / MODEL)
    assert main(["verify", str(folder)]) == 0 and capsys.readouterr().out == f"{folder}\n"
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 6, 10]
    (folder / "plans.json").write_text(json.dumps(plans))
    assert main(["verify", str(folder)]) == 1 and "do not fit the network" in capsys.readouterr().err
    assert "no model 'nothing'" in refusal(capsys, "verify", "nothing")
    (tmp_path / "other").mkdir()
    assert "other is no model" in refusal(capsys, "verify", tmp_path / "other")


def test_a_model_beside_a_bad_one_is_still_verified(results, zipped, capsys):
    folder = install(str(zipped))[0]
    flip_a_byte(folder)
    capsys.readouterr()
    assert main(["verify", "--all"]) == 1
    shown = capsys.readouterr()
    assert str(SHIPPED.folder) in shown.out and str(folder) in shown.err
