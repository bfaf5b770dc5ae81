"""Archives that a stranger made: each is refused in one sentence, and nothing is left behind."""

from __future__ import annotations

import io
import json
import os
import stat
import struct
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from nnunet_neuro.commands.models import main
from nnunet_neuro.models import archive as archive_module
from nnunet_neuro.models.archive import open_archive
from tests.model_zips import CHECKPOINT, DATASET, MODEL, PREFIX, good_members, write_zip


class NeedsCode:
    """Leaves a trace when it is unpickled."""

    def __reduce__(self):
        return exec, ("import os; os.environ['NNNEURO_CODE_WAS_RUN'] = 'yes'",)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "deep" / "results"
    folder.mkdir(parents=True)
    return folder


def refusal(path: Path, results: Path, capsys, *options: str) -> str:
    """Install; the sentence of the refusal, after a look that nothing is left anywhere below the test's folder."""
    before = everything_below(path.parent)
    assert main(["install", str(path), "--results", str(results), *options]) == 2
    assert everything_below(path.parent) == before
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = [line for line in shown.err.splitlines() if line.startswith("nnneuro_models: error: ")]
    assert len(lines) == 1 and shown.err.rstrip().endswith(lines[0])
    return lines[0]


def everything_below(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def with_member(name: str, content: bytes = b"x", *, mode: int = 0, method: int = zipfile.ZIP_DEFLATED):
    """A change that adds a member, with the type of file that Unix stores beside it."""
    def change(archive: zipfile.ZipFile) -> None:
        member = zipfile.ZipInfo(name)
        member.filename = member.orig_filename = name  # else zipfile mends some names
        member.external_attr = mode << 16
        member.compress_type = method
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of duplicates
            archive.writestr(member, content)
    return {"change": change}


def central_entries(content: bytearray) -> list[int]:
    """Where the entries of the central directory begin."""
    count, _, start = struct.unpack_from("<HII", content, content.rindex(b"PK\x05\x06") + 10)
    entries = []
    for _ in range(count):
        assert content[start:start + 4] == b"PK\x01\x02"
        entries.append(start)
        start += 46 + sum(struct.unpack_from("<HHH", content, start + 28))
    return entries


def entry_of(content: bytearray, name: str) -> int:
    return next(at for at in central_entries(content)
                if content[at + 46:at + 46 + struct.unpack_from("<H", content, at + 28)[0]].decode() == name)


def encrypted(content: bytearray) -> None:
    at = entry_of(content, CHECKPOINT)
    content[at + 8] |= 1
    content[struct.unpack_from("<I", content, at + 42)[0] + 6] |= 1


def announces(size: int):
    """A patch: the central directory and the member's own header announce another size than the real one."""
    def patch(content: bytearray) -> None:
        at = entry_of(content, f"{PREFIX}/dataset.json")
        struct.pack_into("<I", content, at + 24, size)
        struct.pack_into("<I", content, struct.unpack_from("<I", content, at + 42)[0] + 22, size)
    return {"patch": patch}


def overlapping(content: bytearray) -> None:
    first, second = (entry_of(content, f"{PREFIX}/fold_0/{name}") for name in ("debug.json", "validation/summary.json"))
    content[second + 42:second + 46] = content[first + 42:first + 46]


def renamed_inside(content: bytearray) -> None:
    """The member's own header has another name than the central directory."""
    at = struct.unpack_from("<I", content, entry_of(content, f"{PREFIX}/plans.json") + 42)[0] + 30
    content[at:at + 7] = b"../../x"


def damaged(content: bytearray) -> None:
    at = struct.unpack_from("<I", content, entry_of(content, CHECKPOINT) + 42)[0]
    for offset in range(at + 2000, at + 2100):
        content[offset] ^= 0xFF


def without(*names: str) -> dict:
    return {"members": {name: content for name, content in good_members().items() if name.removeprefix(f"{PREFIX}/") not in names}}


def replacing(name: str, content: bytes) -> dict:
    return {"members": {**good_members(), f"{PREFIX}/{name}": content}}


def plans_with(**arch_kwargs) -> dict:
    """The good zip with other arguments, or another class, of the network."""
    plans = json.loads(good_members()[f"{PREFIX}/plans.json"])
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    architecture["network_class_name"] = arch_kwargs.pop("network", architecture["network_class_name"])
    architecture["arch_kwargs"].update(arch_kwargs)
    return replacing("plans.json", json.dumps(plans).encode())


def checkpoint_with(**changes) -> dict:
    stream = io.BytesIO()
    torch.save({**torch.load(io.BytesIO(good_members()[CHECKPOINT]), weights_only=False), **changes}, stream)
    return replacing("fold_0/checkpoint_final.pth", stream.getvalue())


def other_weights() -> dict[str, torch.Tensor]:
    weights = torch.load(io.BytesIO(good_members()[CHECKPOINT]), weights_only=False)["network_weights"]
    name = next(iter(weights))
    return {**weights, name: weights[name][:2]}


REFUSED = {
    "a link": (lambda: with_member(f"{PREFIX}/fold_0/debug2.json", b"/etc/passwd", mode=stat.S_IFLNK | 0o777), "is a link"),
    "a link in place of a file": (lambda: {**without("fold_0/debug.json"), **with_member(
        f"{PREFIX}/fold_0/debug.json", b"/etc/passwd", mode=stat.S_IFLNK | 0o777)}, "is a link"),
    "a device": (lambda: with_member(f"{PREFIX}/fold_0/progress.png2", mode=stat.S_IFCHR | 0o666), "is a device"),
    "a pipe": (lambda: with_member(f"{PREFIX}/fold_1/debug.json", mode=stat.S_IFIFO | 0o666), "is a device, a pipe"),
    "an absolute path": (lambda: with_member("/tmp/nnneuro_escaped"), "has an absolute path"),
    "a climbing path": (lambda: with_member("../../escaped.txt"), "climbs out of its folder"),
    "a path that climbs inside": (lambda: with_member(f"{PREFIX}/fold_0/../../../../escaped.pth"), "climbs out of its folder"),
    "a path with a dot": (lambda: with_member(f"{PREFIX}/./fold_1/debug.json"), "climbs out of its folder, or has an empty name"),
    "a drive": (lambda: with_member("C:/escaped.txt"), "names a drive"),
    "backslashes": (lambda: with_member("..\\..\\escaped.txt"), "has a backslash"),
    "a zero byte": (lambda: {"change": with_member(f"{PREFIX}/fold_1/debug.json")["change"],
                             "patch": lambda content: content.__setitem__(
                                 slice(None), content.replace(b"fold_1/debug.json", b"fold_1/debug\0json"))}, "has a control character"),
    "a member twice": (lambda: with_member(f"{PREFIX}/plans.json", b"{}"), "is there twice"),
    "members that differ by case": (lambda: with_member(f"{PREFIX}/fold_0/Checkpoint_Final.pth"), "differ by upper and lower case"),
    "a zip bomb": (lambda: with_member(f"{PREFIX}/fold_1/checkpoint_final.pth", bytes(8 * 1024**2)), "as a zip bomb does"),
    "overlapping members": (lambda: {"patch": overlapping}, "overlap"),
    "a size too small": (lambda: announces(20), "damaged"),
    "a size too large": (lambda: announces(500_000), "has not the 500000 bytes that it announces"),
    "encryption": (lambda: {"patch": encrypted}, "is encrypted"),
    "another method of packing": (lambda: with_member(f"{PREFIX}/fold_1/debug.json", method=zipfile.ZIP_LZMA), "packed by a method"),
    "two names of one member": (lambda: {"patch": renamed_inside}, "is damaged"),
    "damaged content": (lambda: {"patch": damaged}, "is damaged"),
    "truncation": (lambda: {"patch": lambda content: content.__delitem__(slice(len(content) // 2, None))}, "no complete zip"),
    "no zip": (lambda: {"patch": lambda content: content.__setitem__(slice(None), b"model" * 40)}, "no complete zip"),
    "an empty zip": (lambda: {"members": {}}, "holds no model"),
    "a program": (lambda: with_member(f"{PREFIX}/fold_0/run.py"), "does not belong to DatasetNNN_Name"),
    "a start-up file": (lambda: with_member("nnneuro.pth"), "does not belong to DatasetNNN_Name"),
    "several datasets": (lambda: {"members": {**good_members(), **{name.replace("Dataset001_Tiny", "Dataset002_Other"): content
                                                                   for name, content in good_members().items()}}}, "expected one"),
    "missing plans": (lambda: without("plans.json"), "lacks plans.json"),
    "missing dataset.json": (lambda: without("dataset.json"), "lacks dataset.json"),
    "missing checkpoint": (lambda: without("fold_0/checkpoint_final.pth"), "lacks fold_0/checkpoint_final.pth"),
    "plans that are no JSON": (lambda: replacing("plans.json", b"{"), f"{DATASET}/{MODEL}/plans.json is no JSON"),
    "plans nested without end": (lambda: replacing("plans.json", b"[" * 100_000), "is no JSON"),
    "a checkpoint that needs code": (lambda: checkpoint_with(logging=NeedsCode()), "needs code to be loaded"),
    "a checkpoint that is text": (lambda: replacing("fold_0/checkpoint_final.pth", b"weights"), "is damaged or no checkpoint"),
    "a checkpoint of another network": (lambda: checkpoint_with(network_weights=other_weights()), "do not fit the network"),
    "weights that are not finite": (lambda: checkpoint_with(network_weights={
        name: value * float("nan") for name, value in torch.load(io.BytesIO(good_members()[CHECKPOINT]),
                                                                 weights_only=False)["network_weights"].items()}), "not finite"),
    "an unknown trainer": (lambda: checkpoint_with(trainer_name="nnUNetTrainerOfNobody"), "which is not installed"),
    "plans of a deeper network": (lambda: plans_with(n_conv_per_stage=[2, 2, 2]), "do not fit the network"),
    "plans that call a program": (lambda: plans_with(nonlin="subprocess.Popen", nonlin_kwargs={
        "args": ["touch", "/tmp/nnneuro_escaped"]}), "builds its network with 'subprocess.Popen'"),
    "plans with a function for a class": (lambda: plans_with(nonlin="torch.nn.functional.relu"), "builds its network with"),
    "plans with another class": (lambda: plans_with(network="os.system"), "builds its network with 'os.system'"),
    "plans that make no network": (lambda: plans_with(features_per_stage=[4, 6]), "describes no network that can be built"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused(what: str, tmp_path: Path, results: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNNEURO_CODE_WAS_RUN", "no")
    make, expected = REFUSED[what]
    path = write_zip(tmp_path / "model.zip", **make())
    message = refusal(path, results, capsys)
    assert expected in message and str(path) in message and ".nnneuro_install" not in message
    assert os.environ["NNNEURO_CODE_WAS_RUN"] == "no" and not Path("/tmp/nnneuro_escaped").exists()


def test_limits_are_of_all_members_together(tmp_path: Path, results: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zip(tmp_path / "model.zip")
    monkeypatch.setattr(archive_module, "MOST_BYTES", 10_000)
    assert "it would grow to" in refusal(path, results, capsys)
    monkeypatch.setattr(archive_module, "MOST_MEMBERS", 3)
    assert "has 7 members, more than 3" in refusal(path, results, capsys)


def test_another_hash_is_refused_before_the_zip_is_opened(tmp_path: Path, results: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zip(tmp_path / "model.zip")
    monkeypatch.setattr("nnunet_neuro.models.install.open_archive", lambda path: pytest.fail("opened"))
    assert f"expected {'0' * 64}" in refusal(path, results, capsys, "--sha256", "0" * 64)
    assert "is no SHA-256" in refusal(path, results, capsys, "--sha256", "abc")


def test_a_results_folder_that_was_not_there_is_removed_again(tmp_path: Path, capsys) -> None:
    path = write_zip(tmp_path / "model.zip", **REFUSED["missing plans"][0]())
    refusal(path, tmp_path / "results", capsys)
    assert "create it" in refusal(write_zip(tmp_path / "good.zip"), tmp_path / "no" / "results", capsys)


def test_pickles_and_predictions_stay_in_the_archive(tmp_path: Path) -> None:
    left = {f"{PREFIX}/crossval_results_folds_0/postprocessing.pkl", f"{PREFIX}/fold_0/validation/case.nii.gz",
            f"{DATASET}/inference_information.json", f"{DATASET}/ensembles/ensemble___a___b___0/postprocessing.pkl"}
    kept = {f"{PREFIX}/crossval_results_folds_0/postprocessing.json": b"{}"}
    archive = open_archive(write_zip(tmp_path / "model.zip", {**good_members(), **kept, **dict.fromkeys(left, b"x")}))
    assert set(archive.left_out) == left
    archive.unpack(tmp_path / "out")
    unpacked = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert unpacked == {name.removeprefix(f"{DATASET}/") for name in {**good_members(), **kept}}
    assert archive.bytes == sum(map(len, {**good_members(), **kept}.values()))
