"""The writer of raw datasets: formats, folds and the checks of what converters hand it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from nnunet_neuro.raw_dataset import Case, DatasetInfo, write_raw_dataset
from nnunet_neuro.splits import fixed_split, grouped_folds
from nnunet_neuro.volumes import open_volume

AFFINE = np.array([[0.0, -2.0, 0.0, 10.0], [-1.5, 0.0, 0.0, -20.0], [0.0, 0.0, 3.0, 5.0], [0.0, 0.0, 0.0, 1.0]])


def info(file_ending: str = ".nii.gz", **changes) -> DatasetInfo:
    basis = DatasetInfo(name="Made", channel_names=("T1",), labels={"background": 0, "thalamus": 1}, file_ending=file_ending,
                        licence="none", reference="made by a test", converter="test", settings={}, sources=("nowhere",))
    return dataclasses.replace(basis, **changes)


def nifti_case(folder: Path, name: str, *, shape=(5, 6, 7), dtype=np.int16, **changes) -> Case:
    generator = np.random.default_rng(len(name))
    folder.mkdir(exist_ok=True)
    image = nibabel.Nifti1Image(generator.integers(0, 99, shape).astype(dtype), AFFINE)
    label = nibabel.Nifti1Image((generator.random(shape) > 0.8).astype(np.uint8), AFFINE)
    nibabel.save(image, folder / f"{name}.nii.gz")
    nibabel.save(label, folder / f"{name}_label.nii.gz")
    volume = open_volume(folder / f"{name}.nii.gz")
    return dataclasses.replace(
        Case(name, (volume,), open_volume(folder / f"{name}_label.nii.gz"), volume.spacing, group=name), **changes)


def write(cases, description, raw, **options) -> Path:
    return write_raw_dataset(lambda: iter(cases), description, dataset_id=7, raw_folder=raw, progress=False, **options)


def test_nifti_keeps_voxels_and_affine(tmp_path):
    cases = [nifti_case(tmp_path / "in", name) for name in ("a", "bb")]
    folder = write(cases, info(), tmp_path / "raw")
    for case in cases:
        before = nibabel.load(case.channels[0].path)
        after = nibabel.load(folder / f"imagesTr/{case.identifier}_0000.nii.gz")
        np.testing.assert_array_equal(np.asarray(before.dataobj), np.asarray(after.dataobj))
        np.testing.assert_allclose(after.affine, AFFINE, atol=1e-5)
        np.testing.assert_allclose(nibabel.load(folder / f"labelsTr/{case.identifier}.nii.gz").affine, AFFINE, atol=1e-5)
    assert json.loads((folder / "dataset.json").read_text())["overwrite_image_reader_writer"] == "SimpleITKIO"
    assert not list((folder / "imagesTr").glob("*.json"))


def test_png_keeps_pixels(tmp_path):
    generator = np.random.default_rng(0)
    cases = []
    for name, depth in (("eight", np.uint8), ("sixteen", np.uint16)):
        pixels = generator.integers(0, np.iinfo(depth).max, (9, 11)).astype(depth)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        Image.fromarray((pixels % 2).astype(np.uint8)).save(tmp_path / f"{name}-label.png")
        cases.append(Case(name, (open_volume(tmp_path / f"{name}.png"),), open_volume(tmp_path / f"{name}-label.png"), (1.0, 1.0),
                          group=name))
    folder = write(cases, info(".png"), tmp_path / "raw")
    for case in cases:
        np.testing.assert_array_equal(open_volume(folder / f"imagesTr/{case.identifier}_0000.png").read(), case.channels[0].read())


def test_several_channels(tmp_path):
    case = nifti_case(tmp_path / "in", "a")
    second = nifti_case(tmp_path / "in", "other")
    both = dataclasses.replace(case, channels=(*case.channels, *second.channels))
    folder = write([both, dataclasses.replace(both, identifier="b", group="b")], info(channel_names=("T1", "FA")), tmp_path / "raw")
    assert sorted(path.name for path in (folder / "imagesTr").iterdir()) == [
        "a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz"]


@pytest.mark.parametrize(("largest", "dtype"), [(3, "uint8"), (255, "uint8"), (256, "uint16"), (70000, "uint32")])
def test_labels_have_the_smallest_type(largest, dtype):
    from nnunet_neuro.raw_formats import smallest_label_dtype

    assert smallest_label_dtype(largest) == np.dtype(dtype)


def test_fixed_split_of_the_source_is_used(tmp_path):
    cases = [nifti_case(tmp_path / "in", "a"), nifti_case(tmp_path / "in", "b", split="val"), nifti_case(tmp_path / "in", "c")]
    folder = write(cases, info(), tmp_path / "raw")
    assert json.loads((folder / "splits_final.json").read_text()) == [{"train": ["a", "c"], "val": ["b"]}]


def test_one_group_gets_no_folds(tmp_path, capsys):
    cases = [nifti_case(tmp_path / "in", name, group="same") for name in ("a", "b")]
    folder = write(cases, info(), tmp_path / "raw")
    assert not (folder / "splits_final.json").exists()
    assert "fold `all`" in capsys.readouterr().err


@pytest.mark.parametrize("groups", range(2, 12))
@pytest.mark.parametrize("seed", range(3))
def test_no_group_in_two_folds(groups, seed):
    generator = np.random.default_rng(seed)
    group_of = {f"case{i}": f"g{generator.integers(groups) if i >= groups else i}" for i in range(groups + 9)}
    folds = grouped_folds(group_of)
    assert len(folds) == min(5, groups)
    assert sorted(case for fold in folds for case in fold["val"]) == sorted(group_of)
    for fold in folds:
        assert not {group_of[case] for case in fold["train"]} & {group_of[case] for case in fold["val"]}
        assert sorted([*fold["train"], *fold["val"]]) == sorted(group_of)
    assert folds == grouped_folds(dict(reversed(group_of.items())))


def test_a_group_in_both_parts_of_a_fixed_split_is_refused():
    with pytest.raises(ValueError, match="group 'g'"):
        fixed_split({"a": "train", "b": "val"}, {"a": "g", "b": "g"})


def test_the_headers_of_all_cases_are_checked_before_anything_is_written(tmp_path):
    good = nifti_case(tmp_path / "in", "a")
    with pytest.raises(ValueError):
        write([good, dataclasses.replace(good, identifier="b", spacing=(1.0, 1.0))], info(), tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


BAD_CASES = {
    "label of another shape": (lambda case, other: {"label": other.label}, "has shape"),
    "channel of another shape": (lambda case, other: {"channels": (other.channels[0],)}, "has shape"),
    "name with a space": (lambda case, other: {"identifier": "a b"}, "letters, digits"),
    "no label": (lambda case, other: {"label": None}, "no label"),
    "no positive voxel size": (lambda case, other: {"spacing": (1.0, 0.0, 1.0)}, "positive numbers"),
    "two channels": (lambda case, other: {"channels": (*case.channels, *case.channels)}, "2 channels, expected 1"),
    "unknown split": (lambda case, other: {"split": "valid"}, "choose one of train, val, test"),
    "float label": (lambda case, other: {"label": dataclasses.replace(case.label, dtype=np.dtype("f4"))}, "expected integers"),
    "complex image": (lambda case, other: {"channels": (dataclasses.replace(case.channels[0], dtype=np.dtype("c8")),)}, "complex64"),
    "another place": (lambda case, other: {"label": dataclasses.replace(case.label, affine=np.diag([-1.0, 1, 1, 1]) @ AFFINE)}, "affines"),
    "other voxel size": (lambda case, other: {"label": dataclasses.replace(case.label, spacing=(9.0, 9.0, 9.0))}, "voxel size"),
}


@pytest.mark.parametrize("what", BAD_CASES)
def test_bad_case_is_refused(tmp_path, what):
    change, sentence = BAD_CASES[what]
    case, other = nifti_case(tmp_path / "in", "a"), nifti_case(tmp_path / "in", "other", shape=(5, 6, 8))
    with pytest.raises(ValueError, match=sentence):
        write([dataclasses.replace(case, **change(case, other))], info(), tmp_path / "raw")
    assert not list((tmp_path).rglob("dataset.json"))


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"labels": {"background": 0, "a": 2}}, "without gaps"),
    ({"labels": {"a": 0, "b": 1}}, "without gaps"),
    ({"labels": {"background": 0, "ignore": 1, "a": 2}}, "highest value"),
    ({"file_ending": ".jpg"}, "choose one of"),
    ({"name": "two__underscores"}, "single underscores"),
])
def test_bad_description_is_refused(tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        write([nifti_case(tmp_path / "in", "a")], info(**changes), tmp_path / "raw")


def test_identifiers_are_unique_whatever_their_case(tmp_path):
    with pytest.raises(ValueError, match="unique"):
        write([nifti_case(tmp_path / "in", "a"), nifti_case(tmp_path / "in", "A")], info(), tmp_path / "raw")


def test_nan_in_an_image_is_refused(tmp_path):
    case = nifti_case(tmp_path / "in", "a", dtype=np.float32)
    broken = np.zeros((5, 6, 7), np.float32)
    broken[2, 2, 2] = np.nan
    nibabel.save(nibabel.Nifti1Image(broken, AFFINE), case.channels[0].path)
    with pytest.raises(ValueError, match="NaN"):
        write([case], info(), tmp_path / "raw")
    assert not (tmp_path / "raw/Dataset007_Made/dataset.json").exists()


def test_sheared_affine_is_refused(tmp_path):
    case = nifti_case(tmp_path / "in", "a")
    sheared = np.array(AFFINE)
    sheared[0, 2] = 1.0
    image = dataclasses.replace(case.channels[0], affine=sheared)
    with pytest.raises(ValueError, match="sheared"):
        write([dataclasses.replace(case, channels=(image,))], info(), tmp_path / "raw")


def test_changed_folds_are_reported(tmp_path, nnunet_folders, capsys):
    cases = [nifti_case(tmp_path / "in", name) for name in ("a", "b", "c")]
    folder = write(cases[:2], info(), nnunet_folders.raw)
    copied = nnunet_folders.preprocessed / folder.name / "splits_final.json"
    copied.parent.mkdir()
    copied.write_text((folder / "splits_final.json").read_text())
    capsys.readouterr()
    write(cases, info(), nnunet_folders.raw)
    assert "made from other cases" in capsys.readouterr().err


def test_a_case_that_becomes_a_test_case_leaves_no_training_files(tmp_path):
    cases = [nifti_case(tmp_path / "in", name) for name in ("a", "b", "c")]
    write(cases, info(), tmp_path / "raw")
    folder = write([*cases[:2], dataclasses.replace(cases[2], split="test")], info(), tmp_path / "raw")
    assert sorted(path.name for path in (folder / "imagesTr").iterdir()) == ["a_0000.nii.gz", "b_0000.nii.gz"]
    assert [path.name for path in (folder / "labelsTs").iterdir()] == ["c.nii.gz"]


def test_interrupted_overwrite_does_not_look_whole(tmp_path, monkeypatch):
    from nnunet_neuro import raw_dataset

    cases = [nifti_case(tmp_path / "in", name) for name in ("a", "b")]
    folder = write(cases, info(), tmp_path / "raw")
    monkeypatch.setattr(raw_dataset.shutil, "rmtree", lambda path, **_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write(cases, info(settings={"new": 1}), tmp_path / "raw", overwrite=True)
    assert not (folder / "dataset.json").exists()


def test_scaled_nifti_label_is_refused(tmp_path):
    case = nifti_case(tmp_path / "in", "a")
    scaled = nibabel.load(case.label.path)
    scaled.header.set_slope_inter(0.5, 0)
    nibabel.save(scaled, case.label.path)
    with pytest.raises(ValueError, match="expected integers"):
        write([dataclasses.replace(case, label=open_volume(case.label.path))], info(), tmp_path / "raw")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks processes up in /proc")
def test_workers_end_when_the_conversion_is_killed():
    code = ("import os, time\nfrom nnunet_neuro import raw_dataset\n"
            "if __name__ == '__main__':\n"
            "    with raw_dataset.worker_pool(2) as pool:\n"
            "        print(*{pool.submit(os.getpid).result() for _ in range(8)}, flush=True)\n"
            "        time.sleep(60)\n")
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    workers = [int(word) for word in parent.stdout.readline().split()]
    assert workers and all(Path(f"/proc/{worker}").exists() for worker in workers)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]
