"""`nnneuro_predict` refuses bad input in one sentence with exit code 2; what is done stays valid, and nothing half-made is left."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from nnunet_neuro.predict.store import create_array, open_for_writing
from tests.predict_road import expected, image, labels_in, model, names_in, refusal, run, write_tiff
from tests.tiny_models import change_checkpoint, tiny_model


class NeedsCode:
    """Would end the tests if it were loaded."""

    def __reduce__(self):
        return os._exit, (7,)


@pytest.fixture
def brain(tmp_path) -> Path:
    """A TIFF of one channel in a folder of its own."""
    (tmp_path / "in").mkdir()
    return write_tiff(tmp_path / "in" / "brain.tif", image()[0])


@pytest.fixture
def zarr_brain(tmp_path) -> Path:
    """A Zarr of one channel in chunks of 8."""
    path = tmp_path / "in.zarr"
    create_array(path, image()[0].shape, (8, 8, 8), "uint8")
    open_for_writing(path)[:] = image()[0]
    return path


def refused(capsys, *arguments) -> str:
    """The sentence, whether the parser or the command says it."""
    try:
        code = run(*arguments)
    except SystemExit as ending:
        shown = capsys.readouterr()
        assert ending.code == 2 and not shown.out and "Traceback" not in shown.err
        return shown.err.splitlines()[-1]
    return refusal(capsys, code)


# --- before anything is written ----------------------------------------------------------------------------------------------------

OPTIONS = {
    "last shard": (("--shard", "8/8"), "shard '8/8' is not possible; expected i/N"),
    "part outside": (("--roi", "0:40,0:26,0:23"), "0:40,0:26,0:23 does not lie in"),
    "empty part": (("--roi", "0:40,5:5,0:20"), "is not a region; expected z0:z1,y0:y1,x0:x1"),
    "little memory": (("--memory", "100M"), "0.1 GB of memory are too little for this model, which needs at least"),
    "no amount of memory": (("--memory", "much"), "'much' is not an amount of memory; expected a number with M, G or T"),
    "chunk of nothing": (("--chunk", "0,16,16"), "'0,16,16' is not a size in voxels"),
    "no workers": (("--workers", "0"), "0 workers were asked for; expected 1 or more"),
    "no such device": (("--device", "cuda:99"), "the device 'cuda:99' cannot be used"),
    "no device at all": (("--device", "toaster"), "the device 'toaster' cannot be used"),
    "no step": (("--step", "0"), "a step of 0.0 was asked for"),
    "no batch": (("--batch", "0"), "a batch of 0 windows was asked for"),
    "far spacing": (("--spacing", "1,1,50"), "the voxel size of the input is x = 50, but"),
    "negative spacing": (("--spacing=-1,1,1",), "is not a voxel size; expected three positive numbers"),
    "other fold": (("-f", "3"), "no fold 3 in"),
    "no fold": (("-f", "first"), "'first' is no fold; expected a number, or all"),
    "other checkpoint": (("-chk", "checkpoint_best.pth"), "no fold in"),
    "tiny objects": (("--instances", "components", "--minimum-size", "0"), "objects of at least 0 voxels were asked for"),
    "flat seeds": (("--instances", "watershed", "--seed-depth", "0"), "a seed depth of 0 was asked for"),
    "two ways to name a model": (("-d", "701"), "both --model and -d name a model"),
    "other labels": (("--model", "OTHER"), "only models of the same channels and labels are averaged"),
}


@pytest.mark.parametrize("what", OPTIONS)
def test_options_that_cannot_be(tmp_path, brain, what, capsys):
    options, sentence = OPTIONS[what]
    if "OTHER" in options:
        options = ("--model", str(tiny_model(tmp_path / "other", labels={"background": 0, "soma": 1})))
    assert sentence in refused(capsys, brain, tmp_path / "out" / "labels.zarr", model(), *options)
    assert not (tmp_path / "out").exists()


def test_no_model_or_none_of_that_dataset(tmp_path, brain, capsys, monkeypatch):
    from nnunet_neuro.commands.predict import main

    words = [str(brain), str(tmp_path / "out.zarr"), "--device", "cpu"]
    monkeypatch.delenv("nnUNet_results", raising=False)
    assert "no model was named; give --model FOLDER, or -d DATASET" in refusal(capsys, main(words))
    assert "nnUNet_results is not set" in refusal(capsys, main([*words, "-d", "701"]))
    assert "no model folder" in refused(capsys, brain, tmp_path / "out.zarr", tmp_path / "nowhere")
    assert names_in(tmp_path) == ["in"]


def test_models_that_cannot_be_loaded(tmp_path, brain, capsys):
    folder = tiny_model(tmp_path / "model")
    change_checkpoint(folder, logging=NeedsCode())
    assert "needs code to be loaded" in refused(capsys, brain, tmp_path / "out.zarr", folder)
    shutil.rmtree(folder / "fold_0")
    assert "no fold in" in refused(capsys, brain, tmp_path / "out.zarr", folder)
    assert names_in(tmp_path) == ["in", "model"]


def test_inputs_that_do_not_fit(tmp_path, brain, capsys):
    output = tmp_path / "out.zarr"
    assert "the input has 2 channels, but the model in" in refused(capsys, [brain, brain], output, model())
    assert "the input has 1 channel, but the model in" in refused(capsys, brain, output, model(channels=2))
    smaller = write_tiff(tmp_path / "in" / "smaller.tif", image()[0, 1:])
    assert "the channels have shapes that do not fit" in refused(capsys, [brain, smaller], output, model(channels=2))
    nibabel.save(nibabel.Nifti1Image(image()[0].T, np.diag([1, 1, 9, 1])), tmp_path / "in" / "thick.nii")
    assert "the voxel size of the input is z = 9, but" in refused(capsys, tmp_path / "in" / "thick.nii", output, model())
    assert "no file" in refused(capsys, tmp_path / "in" / "nothing.tif", output, model())
    whole = brain.read_bytes()
    brain.write_bytes(whole[:len(whole) * 2 // 3])
    assert "brain.tif is truncated" in refused(capsys, brain, output, model())
    assert names_in(tmp_path) == ["in"]


def test_another_voxel_size_may_be_meant(tmp_path, capsys):
    nibabel.save(nibabel.Nifti1Image(image()[0].T, np.diag([1, 1, 9, 1])), tmp_path / "thick.nii")
    assert run(tmp_path / "thick.nii", tmp_path / "meant.zarr", model(), "--any-spacing") == 0
    assert "not exact: the voxel size is not the plan's" in capsys.readouterr().err
    assert run(tmp_path / "thick.nii", tmp_path / "mended.zarr", model(), "--spacing", "1,1,1") == 0
    np.testing.assert_array_equal(labels_in(tmp_path / "mended.zarr"), expected(model()))


# --- the output's place ------------------------------------------------------------------------------------------------------------


def test_an_output_that_is_the_input(tmp_path, zarr_brain, capsys):
    slices = tmp_path / "slices"
    slices.mkdir()
    for number, plane in enumerate(image()[0]):
        write_tiff(slices / f"{number:04d}.tif", plane)
    (tmp_path / "link.zarr").symlink_to(zarr_brain)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for source, output in ((zarr_brain, zarr_brain), (zarr_brain, tmp_path / "link.zarr"), (slices, slices),
                           (zarr_brain, zarr_brain / "labels" / "out"), (slices, slices / "out.zarr"), (slices / "0000.tif", slices),
                           (slices / "0000.tif", slices / "0000.tif")):
        assert "is the input" in refused(capsys, source, output, model())
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_what_is_made_beside_the_output_may_be_the_input(tmp_path, zarr_brain, capsys):
    import skimage.io

    skimage.io.imsave(tmp_path / "plane.png", image()[0, 20], check_contrast=False)
    flat = model(patch=(24, 20))
    assert "plane.png is the input" in refused(capsys, tmp_path / "plane.png", tmp_path / "plane.zarr", flat, "--preview")
    zarr_brain.rename(tmp_path / "out.tif.work.zarr")
    assert "out.tif.work.zarr is the input" in refused(capsys, tmp_path / "out.tif.work.zarr", tmp_path / "out.tif", model())
    assert names_in(tmp_path) == ["out.tif.work.zarr", "plane.png"]


@pytest.mark.parametrize("name", ["labels.png", "labels.h5", "labels.nrrd"])
def test_a_name_that_promises_another_format(tmp_path, brain, name, capsys):
    assert f"{name} cannot be written; end the output in .zarr, .tif" in refused(capsys, brain, tmp_path / "out" / name, model())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["out.zarr", "out.tif", "slices"])
def test_what_is_in_the_outputs_place_is_kept(tmp_path, brain, name, capsys):
    options = ("--format", "tiff-slices") if name == "slices" else ()
    (tmp_path / name).write_text("precious")
    assert "exists already" in refused(capsys, brain, tmp_path / name, model(), *options)
    assert (tmp_path / name).read_text() == "precious" and names_in(tmp_path) == sorted(["in", name])
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    (tmp_path / name / "notes.txt").write_text("precious")
    assert "exists already" in refused(capsys, brain, tmp_path / name, model(), *options)
    assert names_in(tmp_path / name) == ["notes.txt"] and names_in(tmp_path) == sorted(["in", name])


def test_a_place_within_a_file(tmp_path, brain, capsys):
    (tmp_path / "notes.txt").write_text("precious")
    assert "notes.txt is a file, so" in refused(capsys, brain, tmp_path / "notes.txt" / "out.zarr", model())


def test_a_further_file_in_the_way(tmp_path, brain, capsys):
    (tmp_path / "out.entropy.tif").write_text("precious")
    assert "out.entropy.tif exists already" in refused(capsys, brain, tmp_path / "out.tif", model(), "--uncertainty")
    assert (tmp_path / "out.entropy.tif").read_text() == "precious" and names_in(tmp_path) == ["in", "out.entropy.tif"]


def test_a_finished_output_whose_state_was_removed_is_not_overwritten(tmp_path, brain, capsys):
    assert run(brain, tmp_path / "out.zarr", model()) == 0
    shutil.rmtree(tmp_path / "out.zarr" / ".nnneuro")
    capsys.readouterr()
    assert "its .nnneuro was removed" in refused(capsys, brain, tmp_path / "out.zarr", model(folds=(0, 1)))
    np.testing.assert_array_equal(labels_in(tmp_path / "out.zarr"), expected(model()))


def test_a_folder_that_cannot_be_written_to(tmp_path, brain, capsys, monkeypatch):
    with monkeypatch.context() as patch:  # root may write anywhere
        patch.setattr("nnunet_neuro.predict.checks.os.access", lambda *_: False)
        assert f"{tmp_path} cannot be written to; choose another output" in refused(capsys, brain, tmp_path / "out" / "a.zarr", model())

    def refuse(self, *arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    assert "cannot be written to (Read-only file system)" in refused(capsys, brain, tmp_path / "out.zarr", model())
    assert names_in(tmp_path) == ["in"]


# --- in the middle -----------------------------------------------------------------------------------------------------------------


def finished(output: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (output / ".nnneuro" / "finished").iterdir()}


def mended(source: Path, output: Path, done: dict[str, int], capsys) -> None:
    """The same command goes on, and what was done is neither lost nor done again."""
    capsys.readouterr()
    assert run(source, output, model()) == 0
    assert finished(output).items() >= done.items() and len(finished(output)) == 3
    np.testing.assert_array_equal(labels_in(output), expected(model()))


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_numbers_that_are_none(tmp_path, number, capsys):
    voxels = image()[0].astype(np.float32)
    voxels[37, 5, 7] = number
    source = write_tiff(tmp_path / "in.tif", voxels)
    sentence = refused(capsys, source, tmp_path / "out.zarr", model(), "--spacing", "1,1,1")
    assert f"holds {number} at voxel (37, 5, 7) (z, y, x); expected finite numbers" in sentence
    assert not (tmp_path / "out.zarr.summary.json").exists()


@pytest.mark.parametrize("damage", ["missing", "corrupt", "truncated", "empty"])
def test_a_chunk_that_cannot_be_read_is_named(tmp_path, zarr_brain, damage, capsys):
    chunk = zarr_brain / "4" / "1" / "1"
    whole = chunk.read_bytes()
    if damage == "missing":
        chunk.unlink()
    else:
        chunk.write_bytes({"corrupt": bytes(len(whole)), "truncated": whole[:-3], "empty": b""}[damage])
    output = tmp_path / "out.zarr"
    sentence = refused(capsys, zarr_brain, output, model())
    expected_words = {"missing": "4/1/1, which would be read as 0", "empty": "4/1/1 is empty", "corrupt": "is damaged",
                      "truncated": "4/1/1 is truncated"}
    assert expected_words[damage] in sentence
    assert damage != "corrupt" or "in region 32:40," in sentence
    if damage == "missing":
        assert "say --missing-chunks zero" in sentence
        assert run(zarr_brain, tmp_path / "zeros.zarr", model(), "--missing-chunks", "zero") == 0
        assert not np.array_equal(labels_in(tmp_path / "zeros.zarr"), expected(model()))
    done = finished(output)
    chunk.write_bytes(whole)
    mended(zarr_brain, output, done, capsys)


def test_a_disk_that_is_full_in_the_middle(tmp_path, brain, capsys, monkeypatch):
    from nnunet_neuro.predict import store

    output, writes = tmp_path / "out.zarr", []

    class Full:
        def __init__(self, array):
            self._array = array

        def __setitem__(self, region, voxels):
            writes.append(region)
            if len(writes) > 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._array[region] = voxels

    real = store.open_for_writing
    with monkeypatch.context() as patch:
        patch.setattr(store, "open_for_writing", lambda folder: Full(real(folder)))
        assert f"no space left for {output}; what is finished stays: make room and run the same command again" in \
            refused(capsys, brain, output, model())
    done = finished(output)
    assert len(done) == 1
    mended(brain, output, done, capsys)


@pytest.mark.parametrize("name", ["out.zarr", "out.tif"])
def test_a_disk_that_is_full_at_the_end(tmp_path, brain, name, capsys, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    place = "pyramid.open_for_writing" if name == "out.zarr" else "exports._planes"
    with monkeypatch.context() as patch:
        patch.setattr(f"nnunet_neuro.predict.{place}", full)
        assert "no space left for" in refused(capsys, brain, tmp_path / name, model())
    assert name == "out.zarr" or not (tmp_path / name).exists()
    capsys.readouterr()
    assert run(brain, tmp_path / name, model()) == 0
    np.testing.assert_array_equal(labels_in(tmp_path / name), expected(model()))
    assert [path for path in names_in(tmp_path) if path.startswith(".")] == []


def test_a_network_that_fails_is_one_sentence(tmp_path, brain, capsys):
    folder = tiny_model(tmp_path / "model")
    import torch

    weights = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=False)["network_weights"]
    change_checkpoint(folder, network_weights={name: tensor * 1e6 if tensor.ndim > 1 else tensor for name, tensor in weights.items()})
    sentence = refused(capsys, brain, tmp_path / "out.zarr", folder)
    assert "block 0 (region 0:16,0:26,0:22) could not be predicted" in sentence and "what is finished stays" in sentence
    assert json.loads((tmp_path / "out.zarr" / ".nnneuro" / "identity.json").read_text())["step"] == 0.5
