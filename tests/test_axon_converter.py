"""`nnneuro_convert axon`: layouts, pairing, labels, resumption and bad input."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

from nnunet_neuro import raw_dataset, raw_formats
from nnunet_neuro.commands.convert import main
from nnunet_neuro.converters import load_converter
from tests.conftest import SAMPLE
from tests.fake_sources.axon import SPACING, axon_cube, write_brain, write_cube, write_slices


def convert(*arguments) -> int:
    return main(["axon", "--workers", "1", *map(str, arguments)])


def dataset_of(folders, name: str = "Dataset701_Axons"):
    folder = folders.raw / name
    return folder, json.loads((folder / "dataset.json").read_text())


def refused(capsys, *arguments) -> str:
    """Convert bad input; gives the one sentence."""
    capsys.readouterr()
    assert convert(*arguments) == 2
    said = capsys.readouterr()
    sentences = [line for line in said.err.replace("\r", "\n").splitlines() if line.startswith("nnneuro_convert: error:")]
    assert len(sentences) == 1 and "Traceback" not in said.err
    assert said.out == ""
    return sentences[0]


# --- what is written ----------------------------------------------------------------------------------------------------------------


def test_images_and_labels_arrive_unchanged(tmp_path, nnunet_folders):
    assert convert(write_brain(tmp_path / "brain", numbers=(1, 20), artefacts=(1,), val=(7,))) == 0
    folder, description = dataset_of(nnunet_folders)
    image, label = axon_cube(20)
    np.testing.assert_array_equal(tifffile.imread(folder / "imagesTr/brain_020_0000.tif"), image)
    written = tifffile.imread(folder / "labelsTr/brain_020.tif")
    assert written.dtype == np.uint8
    np.testing.assert_array_equal(written, label // 255)
    assert json.loads((folder / "imagesTr/brain_020.json").read_text()) == {"spacing": list(SPACING)}
    assert json.loads((folder / "labelsTr/brain_020.json").read_text()) == {"spacing": list(SPACING)}
    assert sorted(path.name for path in (folder / "imagesTs").glob("*.tif")) == ["brain_val_007_0000.tif"]
    assert (folder / "labelsTs/brain_val_007.tif").is_file()
    assert description["numTraining"] == 3
    assert description["labels"] == {"background": 0, "axon": 1}
    assert description["overwrite_image_reader_writer"] == "Tiff3DIO"
    assert not tifffile.imread(folder / "labelsTr/brain_artifact_001.tif").any()


def test_provenance_leads_back_to_the_files(tmp_path, nnunet_folders):
    brain = write_brain(tmp_path / "brain", numbers=(1, 2), artefacts=(5,))
    assert convert(brain) == 0
    cases = dataset_of(nnunet_folders)[1]["provenance"]["cases"]
    assert {name for name, case in cases.items() if case["artefact"]} == {"brain_artifact_005"}
    for source in cases["brain_002"]["sources"]:
        assert hashlib.sha256(Path(source["path"]).read_bytes()).hexdigest() == source["sha256"]
    assert {source["path"] for source in cases["brain_002"]["sources"]} == {
        str(brain / "train/volumes/volume-002.tiff"), str(brain / "train/Fine-label/label-002.tiff")}


@pytest.mark.parametrize("images", ["volumes", "cropped-cubes"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_both_published_layouts_and_types(tmp_path, nnunet_folders, images, dtype):
    assert convert(write_brain(tmp_path / "b", images=images, dtype=dtype)) == 0
    assert tifffile.imread(dataset_of(nnunet_folders)[0] / "imagesTr/b_001_0000.tif").dtype == dtype


def test_slice_folders_are_volumes(tmp_path, nnunet_folders):
    image, label = axon_cube(3)
    write_slices(tmp_path / "b/train/volumes/volume-003", image)
    write_slices(tmp_path / "b/train/Fine-label/label-003", label)
    write_brain(tmp_path / "b", numbers=(4,))
    assert convert(tmp_path / "b", "--spacing", "3,1.625,1.625") == 0
    np.testing.assert_array_equal(tifffile.imread(dataset_of(nnunet_folders)[0] / "imagesTr/b_003_0000.tif"), image)


def test_pairs_by_number_not_by_order(tmp_path, nnunet_folders):
    brain = write_brain(tmp_path / "b", numbers=(9, 10))
    (brain / "train/Fine-label/label-009.tiff").rename(brain / "train/Fine-label/z-9.tiff")  # now sorts after label-010
    assert convert(brain) == 0
    np.testing.assert_array_equal(tifffile.imread(dataset_of(nnunet_folders)[0] / "labelsTr/b_009.tif"), axon_cube(9)[1] // 255)


def test_label_kind_can_be_chosen(tmp_path, nnunet_folders):
    brain = write_brain(tmp_path / "b", numbers=(1, 2))
    for number in (1, 2):
        write_cube(brain / f"train/Rough-label/label-{number}.tiff", np.full((8, 12, 10), 255, np.uint8))
    assert convert(brain, "--label", "rough") == 0
    assert tifffile.imread(dataset_of(nnunet_folders)[0] / "labelsTr/b_001.tif").all()


def test_several_brains_make_one_dataset_with_a_group_per_cube(tmp_path, nnunet_folders):
    write_brain(tmp_path / "set/brain A", numbers=(1, 2))
    write_brain(tmp_path / "set/brain-B", numbers=(1, 2, 3))
    assert convert(tmp_path / "set") == 0
    folder, description = dataset_of(nnunet_folders)
    cases = description["provenance"]["cases"]
    assert {case["group"] for case in cases.values()} == {"brain-A/001", "brain-A/002", "brain-B/001", "brain-B/002", "brain-B/003"}
    folds = json.loads((folder / "splits_final.json").read_text())
    assert len(folds) == 5
    assert sorted(name for fold in folds for name in fold["val"]) == sorted(cases)


def test_unlabelled_voxels_become_the_ignore_label(tmp_path, nnunet_folders):
    brain = write_brain(tmp_path / "b", numbers=(1, 2))
    native = np.zeros((8, 12, 10), np.uint8)
    native[3], native[3, :, 4], native[3, :, 5], native[3, 0, 0] = 1, 2, 4, 3
    for number in (1, 2):
        write_cube(brain / f"train/Fine-label/label-{number:03d}.tiff", native)
    assert convert(f"trailmap={brain}") == 0
    folder, description = dataset_of(nnunet_folders)
    assert description["labels"] == {"background": 0, "axon": 1, "ignore": 2}
    expected = np.array([2, 0, 1, 0, 2], np.uint8)[native]
    np.testing.assert_array_equal(tifffile.imread(folder / "labelsTr/b_001.tif"), expected)


def test_planes_that_were_saved_one_after_another(tmp_path, nnunet_folders):
    """tifffile makes one series of each; all of them are the volume."""
    brain = write_brain(tmp_path / "b")
    image, label = axon_cube(2)
    for path, array in (("volumes/volume-002.tiff", image), ("Fine-label/label-002.tiff", label)):
        with tifffile.TiffWriter(brain / "train" / path) as tif:
            for plane in array:
                tif.write(plane)
    assert convert(brain, "--spacing", "3,1.625,1.625") == 0
    folder = dataset_of(nnunet_folders)[0]
    np.testing.assert_array_equal(tifffile.imread(folder / "imagesTr/b_002_0000.tif"), image)
    np.testing.assert_array_equal(tifffile.imread(folder / "labelsTr/b_002.tif"), label // 255)


def test_number_behind_the_word_counts(tmp_path, nnunet_folders):
    brain = write_brain(tmp_path / "b", numbers=(1, 2))
    for number, version in ((1, 2), (2, 1)):
        (brain / f"train/Fine-label/label-{number:03d}.tiff").rename(brain / f"train/Fine-label/label-{number:03d}-v{version}.tiff")
    assert convert(brain) == 0
    np.testing.assert_array_equal(tifffile.imread(dataset_of(nnunet_folders)[0] / "labelsTr/b_001.tif"), axon_cube(1)[1] // 255)


def test_voxel_size_of_the_file_comes_before_the_option_and_says_so(tmp_path, nnunet_folders, capsys):
    assert convert(write_brain(tmp_path / "stated"), "--spacing", "7,7,7") == 0
    assert "brain stated" in capsys.readouterr().err
    assert json.loads((nnunet_folders.raw / "Dataset701_Axons/imagesTr/stated_001.json").read_text())["spacing"] == list(SPACING)


def test_another_brain_joins_without_writing_the_first_again(tmp_path, nnunet_folders):
    first, second = write_brain(tmp_path / "a"), write_brain(tmp_path / "b")
    assert convert(first) == 0
    image = nnunet_folders.raw / "Dataset701_Axons/imagesTr/a_001_0000.tif"
    before = image.stat().st_mtime_ns
    assert convert(first, second) == 0
    assert image.stat().st_mtime_ns == before
    assert dataset_of(nnunet_folders)[1]["numTraining"] == 6


@pytest.mark.parametrize(("edge", "value"), [("axon", 1), ("background", 0), ("class", 2), ("ignore", 2)])
def test_axon_edge(tmp_path, nnunet_folders, edge, value):
    brain = write_brain(tmp_path / "b", numbers=(1, 2))
    for number in (1, 2):
        write_cube(brain / f"train/Fine-label/label-{number:03d}.tiff", np.full((8, 12, 10), 4, np.uint8))
    assert convert(brain, "--variant", "trailmap", "--edge", edge) == 0
    assert (tifffile.imread(dataset_of(nnunet_folders)[0] / "labelsTr/b_001.tif") == value).all()


def test_a_users_ignore_value_is_kept(tmp_path, nnunet_folders):
    brain = write_brain(tmp_path / "b", numbers=(1, 2))
    label = axon_cube(1)[1]
    label[0] = 77
    write_cube(brain / "train/Fine-label/label-001.tiff", label)
    assert convert(brain, "--ignore-value", 77) == 0
    folder, description = dataset_of(nnunet_folders)
    assert description["labels"]["ignore"] == 2
    assert (tifffile.imread(folder / "labelsTr/b_001.tif")[0] == 2).all()


def test_sample_cubes_pass(nnunet_folders):
    assert convert(f"trailmap={SAMPLE / 'trailmap'}", f"dlmbmap={SAMPLE / 'dlmbmap'}", "--spacing", "3,3.25,3.25") == 0
    folder, description = dataset_of(nnunet_folders)
    annotated = description["provenance"]["cases"]["trailmap_001"]["label_voxels"]
    assert annotated["background"] + annotated["axon"] < 120 * 59  # one plane, its axon edges ignored
    assert annotated["ignore"] >= 31 * 120 * 59


def test_two_workers_write_the_same_bytes(tmp_path, nnunet_folders):
    brain = write_brain(tmp_path / "b", numbers=(1, 2, 3, 4), artefacts=(1,))
    assert convert(brain) == 0
    assert main(["axon", str(brain), "--workers", "2", "--raw", str(tmp_path / "other")]) == 0
    first, second = nnunet_folders.raw / "Dataset701_Axons", tmp_path / "other/Dataset701_Axons"
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_cases_are_streamed(tmp_path, nnunet_folders, monkeypatch):
    """A case is asked for only when the one before it is written: memory does not grow with their number."""
    brain = write_brain(tmp_path / "b", numbers=tuple(range(1, 21)))
    asked, written = [], []
    converter = load_converter("axon")
    original_cases, original_write = converter.cases, raw_dataset.write_case

    def cases(arguments):
        for case in original_cases(arguments):
            asked.append(case.identifier)
            yield case

    def write(case, info, folder):
        assert len(asked) - 20 == len(written) + 1  # the first 20 were the pass over the headers
        written.append(case.identifier)
        return original_write(case, info, folder)

    monkeypatch.setattr(converter, "cases", cases)
    monkeypatch.setattr(raw_dataset, "write_case", write)
    assert convert(brain) == 0
    assert len(written) == 20


# --- running it again ---------------------------------------------------------------------------------------------------------------


def test_second_run_writes_only_what_is_missing_or_changed(tmp_path, nnunet_folders):
    brain = write_brain(tmp_path / "b", numbers=(1, 2, 3))
    assert convert(brain) == 0
    folder = nnunet_folders.raw / "Dataset701_Axons"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.tif")}
    (folder / "imagesTr/b_002_0000.tif").unlink()
    write_cube(brain / "train/Fine-label/label-003.tiff", np.zeros((8, 12, 10), np.uint8))
    os.utime(brain / "train/volumes/volume-001.tiff")  # touched, not changed
    assert convert(brain) == 0
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*.tif")}
    rewritten = {path.name for path in after if after[path] != before.get(path)}
    assert rewritten == {"b_002_0000.tif", "b_002.tif", "b_003_0000.tif", "b_003.tif"}
    assert not tifffile.imread(folder / "labelsTr/b_003.tif").any()


def test_same_bytes_in_every_run(tmp_path, nnunet_folders):
    brain = write_brain(tmp_path / "b")
    assert convert(brain) == 0
    description = nnunet_folders.raw / "Dataset701_Axons/dataset.json"
    first = description.read_bytes()
    assert convert(brain, "--overwrite") == 0
    assert description.read_bytes() == first


def test_other_options_are_refused_without_overwrite(tmp_path, nnunet_folders, capsys):
    brain = write_brain(tmp_path / "b")
    assert convert(brain) == 0
    before = sorted((path, path.stat().st_mtime_ns) for path in nnunet_folders.raw.rglob("*.*"))
    assert "edge='ignore'" in refused(capsys, brain, "--edge", "axon")
    assert before == sorted((path, path.stat().st_mtime_ns) for path in nnunet_folders.raw.rglob("*.*"))
    assert convert(brain, "--edge", "axon", "--overwrite") == 0


def test_a_hand_made_dataset_is_not_touched(tmp_path, nnunet_folders, capsys):
    made = nnunet_folders.raw / "Dataset701_Axons"
    (made / "imagesTr").mkdir(parents=True)
    (made / "dataset.json").write_text("{}")
    assert "not made by nnneuro_convert" in refused(capsys, write_brain(tmp_path / "b"))
    assert (made / "dataset.json").read_text() == "{}"


def test_a_case_whose_source_is_gone_is_named(tmp_path, nnunet_folders, capsys):
    brain = write_brain(tmp_path / "b", numbers=(1, 2, 3))
    assert convert(brain) == 0
    for path in ("volumes/volume-002.tiff", "Fine-label/label-002.tiff"):
        (brain / "train" / path).unlink()
    assert "b_002" in refused(capsys, brain)
    assert dataset_of(nnunet_folders)[1]["numTraining"] == 3  # the dataset is as it was
    assert convert(brain, "--overwrite") == 0
    left = sorted(path.name for path in (nnunet_folders.raw / "Dataset701_Axons/labelsTr").glob("*.tif"))
    assert left == ["b_001.tif", "b_003.tif"]


# --- bad input: one sentence, exit code 2, nothing that looks whole ---------------------------------------------------------------


def no_dataset(folders) -> bool:
    return not list(folders.raw.rglob("dataset.json"))


@pytest.mark.parametrize("description", ["ImageJ=1.11a\nimages=2\nchannels=2\nhyperstack=true\n", "ImageJ=1.11a\nimages=2\nframes=2\n"])
def test_channels_and_time_points_are_not_planes(tmp_path, nnunet_folders, capsys, description):
    brain = write_brain(tmp_path / "b")
    tifffile.imwrite(brain / "train/volumes/volume-001.tiff", axon_cube(1)[0][:2], description=description, metadata=None)
    sentence = refused(capsys, brain)
    assert "volume-001.tiff" in sentence and any(word in sentence for word in ("expected a volume of one channel", "of one time point"))
    assert no_dataset(nnunet_folders)


def test_separate_images_in_one_file(tmp_path, nnunet_folders, capsys):
    brain = write_brain(tmp_path / "b")
    with tifffile.TiffWriter(brain / "train/volumes/volume-001.tiff") as tif:
        tif.write(axon_cube(1)[0])
        tif.write(axon_cube(1)[0][:, :5])
    assert "2 separate images" in refused(capsys, brain)
    assert no_dataset(nnunet_folders)


def test_misspelt_folder(tmp_path, nnunet_folders, capsys):
    brain = write_brain(tmp_path / "b", val=(4,))
    (brain / "val/volumes").rename(brain / "val/Volumes")
    sentence = refused(capsys, brain)
    assert "Volumes" in sentence and "cropped-cubes" in sentence
    assert no_dataset(nnunet_folders)


def test_labels_without_volumes(tmp_path, nnunet_folders, capsys):
    brain = write_brain(tmp_path / "b", artefacts=(1,))
    shutil.rmtree(brain / "train/volumes")
    assert "no volume for label 'label-001.tiff'" in refused(capsys, brain)


def test_only_artefact_cubes(tmp_path, nnunet_folders, capsys):
    assert "no training cube with a label" in refused(capsys, write_brain(tmp_path / "b", numbers=(), artefacts=(1, 2)))


def test_cube_of_another_format(tmp_path, nnunet_folders, capsys):
    brain = write_brain(tmp_path / "b")
    (brain / "train/volumes/volume-009.nii.gz").touch()
    assert "volume-009.nii.gz" in refused(capsys, brain)


def test_label_of_another_voxel_size(tmp_path, nnunet_folders, capsys):
    brain = write_brain(tmp_path / "b", spacing=None)
    write_cube(brain / "train/Fine-label/label-002.tiff", axon_cube(2)[1], spacing=(9.0, 9.0, 9.0))
    assert "label-002.tiff" in refused(capsys, brain, "--spacing", "3,2,2")


def test_other_planes_in_the_label_folder(tmp_path, nnunet_folders, capsys):
    image, label = axon_cube(3)
    write_slices(tmp_path / "b/train/volumes/volume-003", image)
    folder = write_slices(tmp_path / "b/train/Fine-label/label-003", label)
    for number in reversed(range(8)):
        (folder / f"{number:04d}.tif").rename(folder / f"{number + 4:04d}.tif")
    sentence = refused(capsys, tmp_path / "b", "--spacing", "3,2,2")
    assert "begin with 4" in sentence and "with 0" in sentence


def test_missing_slice(tmp_path, nnunet_folders, capsys):
    image, label = axon_cube(3)
    folder = write_slices(tmp_path / "b/train/volumes/volume-003", image)
    write_slices(tmp_path / "b/train/Fine-label/label-003", label)
    (folder / "0005.tif").unlink()
    assert "without 5" in refused(capsys, tmp_path / "b", "--spacing", "3,2,2")


def test_source_inside_the_dataset(tmp_path, nnunet_folders, capsys):
    brain = write_brain(nnunet_folders.raw / "Dataset701_Axons/imagesTr/b")
    assert "move the source elsewhere" in refused(capsys, brain, "--overwrite")
    assert (brain / "train/volumes/volume-001.tiff").is_file()


def test_file_that_no_case_owns(tmp_path, nnunet_folders, capsys):
    brain = write_brain(tmp_path / "b")
    assert convert(brain) == 0
    stranger = nnunet_folders.raw / "Dataset701_Axons/imagesTr/old_0000.tif"
    stranger.touch()
    assert "old_0000.tif" in refused(capsys, brain)


def test_source_that_changes_between_the_two_passes(tmp_path, nnunet_folders, capsys, monkeypatch):
    brain = write_brain(tmp_path / "b")
    original = raw_dataset.write_case

    def change_the_next(case, info, folder):
        write_cube(brain / "train/Fine-label/label-003.tiff", np.zeros((8, 12, 9), np.uint8))
        return original(case, info, folder)

    monkeypatch.setattr(raw_dataset, "write_case", change_the_next)
    assert "label-003.tiff" in refused(capsys, brain)
    assert no_dataset(nnunet_folders)


def test_two_conversions_at_once(tmp_path, nnunet_folders, monkeypatch):
    brain = write_brain(tmp_path / "b")
    original, others = raw_dataset.write_case, []
    command = [sys.executable, "-c", "import sys; from nnunet_neuro.commands.convert import main; sys.exit(main(sys.argv[1:]))",
               "axon", str(brain), "--overwrite"]

    def convert_again(case, info, folder):
        others.append(subprocess.run(command, capture_output=True, text=True, timeout=60))
        return original(case, info, folder)

    monkeypatch.setattr(raw_dataset, "write_case", convert_again)
    assert convert(brain) == 0
    assert all(other.returncode == 2 and "another conversion is writing" in other.stderr for other in others) and len(others) == 3
    assert not list(nnunet_folders.raw.rglob(".*"))


def test_unreadable_record_is_written_anew(tmp_path, nnunet_folders):
    brain = write_brain(tmp_path / "b")
    assert convert(brain) == 0
    for name, content in (("b_001", ""), ("b_002", "{}")):
        (nnunet_folders.raw / f"Dataset701_Axons/provenance/cases/{name}.json").write_text(content)
    assert convert(brain) == 0
    assert set(dataset_of(nnunet_folders)[1]["provenance"]["cases"]) == {"b_001", "b_002", "b_003"}


@pytest.mark.parametrize("arguments", [("--workers", "0"), ("--workers", "-1"), ("--workers", "two")])
def test_impossible_number_of_workers(tmp_path, arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["axon", str(tmp_path), *arguments])
    assert stop.value.code == 2


@pytest.mark.parametrize("arguments", [("-d", "0"), ("-d", "1000"), ("--name", "a__b"), ("--name", "Lightsheetaxonsofthewholebrain 2")])
def test_impossible_dataset(tmp_path, nnunet_folders, capsys, arguments):
    assert "not possible" in refused(capsys, write_brain(tmp_path / "b"), *arguments)


def test_a_worker_that_dies(tmp_path, nnunet_folders):
    brain = write_brain(tmp_path / "b", numbers=tuple(range(1, 9)))
    code = ("import os, sys\nfrom nnunet_neuro import raw_dataset\nfrom nnunet_neuro.commands.convert import main\n"
            "original = raw_dataset.write_case\n"
            "def die(case, info, folder):\n"
            "    if case.identifier == 'b_005': os._exit(1)\n"
            "    return original(case, info, folder)\n"
            "raw_dataset.write_case = die\n"
            "if __name__ == '__main__': sys.exit(main(sys.argv[1:]))\n")
    script = tmp_path / "dies.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, str(script), "axon", str(brain), "--workers", "2"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "a worker died" in done.stderr and "Traceback" not in done.stderr
    assert no_dataset(nnunet_folders)
    assert convert(brain) == 0


def test_missing_label(tmp_path, nnunet_folders, capsys):
    brain = write_brain(tmp_path / "b", numbers=(1, 7))
    (brain / "train/Fine-label/label-007.tiff").unlink()
    sentence = refused(capsys, brain)
    assert "'volume-007.tiff'" in sentence and "label-007.tiff" in sentence
    assert no_dataset(nnunet_folders) and not list(nnunet_folders.raw.rglob("*.tif"))


def test_label_without_volume(tmp_path, nnunet_folders, capsys):
    brain = write_brain(tmp_path / "b", numbers=(1, 7))
    (brain / "train/volumes/volume-007.tiff").unlink()
    assert "'label-007.tiff'" in refused(capsys, brain)
    assert no_dataset(nnunet_folders)


def test_two_labels_for_one_number(tmp_path, nnunet_folders, capsys):
    brain = write_brain(tmp_path / "b", numbers=(1, 7))
    shutil.copy(brain / "train/Fine-label/label-007.tiff", brain / "train/Fine-label/label-7.tiff")
    sentence = refused(capsys, brain)
    assert "number 7" in sentence and "label-007.tiff" in sentence and "label-7.tiff" in sentence
    assert no_dataset(nnunet_folders)


def test_other_shape(tmp_path, nnunet_folders, capsys):
    brain = write_brain(tmp_path / "b")
    write_cube(brain / "train/Fine-label/label-002.tiff", np.zeros((8, 12, 9), np.uint8))
    sentence = refused(capsys, brain)
    assert "label-002.tiff" in sentence and "(8, 12, 9)" in sentence and "(8, 12, 10)" in sentence
    assert no_dataset(nnunet_folders) and not list(nnunet_folders.raw.rglob("*.tif"))


@pytest.mark.parametrize("fraction", [0.1, 0.4, 0.7, 0.97])
def test_truncated_tiff(tmp_path, nnunet_folders, capsys, fraction):
    brain = write_brain(tmp_path / "b")
    volume = brain / "train/volumes/volume-002.tiff"
    whole = volume.read_bytes()
    volume.write_bytes(whole[: int(len(whole) * fraction)])
    sentence = refused(capsys, brain)
    assert "volume-002.tiff" in sentence and "copy it again" in sentence
    assert no_dataset(nnunet_folders)


def test_fewer_pages_than_the_header_says(tmp_path, nnunet_folders, capsys):
    brain = write_brain(tmp_path / "b")
    volume = brain / "train/volumes/volume-002.tiff"
    image = axon_cube(2)[0]
    with tifffile.TiffWriter(volume) as tif:
        for plane in image[:5]:
            tif.write(plane, contiguous=False, metadata=None, description="ImageJ=1.11a\nimages=8\nslices=8\n")
    sentence = refused(capsys, brain)
    assert "5 pages found, 8 expected" in sentence
    assert no_dataset(nnunet_folders)


def test_float_tiff(tmp_path, nnunet_folders, capsys):
    brain = write_brain(tmp_path / "b")
    write_cube(brain / "train/volumes/volume-001.tiff", axon_cube(1)[0].astype(np.float32))
    sentence = refused(capsys, brain)
    assert "volume-001.tiff" in sentence and "float32" in sentence and "uint16" in sentence
    assert no_dataset(nnunet_folders)


def test_rgb_tiff(tmp_path, nnunet_folders, capsys):
    brain = write_brain(tmp_path / "b")
    tifffile.imwrite(brain / "train/volumes/volume-001.tiff", np.zeros((8, 12, 10, 3), np.uint8), photometric="rgb")
    sentence = refused(capsys, brain)
    assert "volume-001.tiff" in sentence and "colour" in sentence
    assert no_dataset(nnunet_folders)


def test_unknown_label_value(tmp_path, nnunet_folders, capsys):
    brain = write_brain(tmp_path / "b")
    label = axon_cube(2)[1]
    label[0, 0, :4] = 7
    write_cube(brain / "train/Fine-label/label-002.tiff", label)
    sentence = refused(capsys, brain)
    assert "label-002.tiff" in sentence and "value 7 (4 voxels)" in sentence and "[0, 1, 255]" in sentence
    assert no_dataset(nnunet_folders)


@pytest.mark.parametrize("made", ["nothing", "empty", "empty volumes"])
def test_empty_or_missing_folder(tmp_path, nnunet_folders, capsys, made):
    if made != "nothing":
        (tmp_path / "b").mkdir()
    if made == "empty volumes":
        (tmp_path / "b/train/volumes").mkdir(parents=True)
    sentence = refused(capsys, tmp_path / "b")
    assert str(tmp_path / "b") in sentence and "train/volumes" in sentence
    assert no_dataset(nnunet_folders)


def test_no_voxel_size(tmp_path, nnunet_folders, capsys):
    brain = write_brain(tmp_path / "b", spacing=None)
    sentence = refused(capsys, brain)
    assert "volume-001.tiff" in sentence and "--spacing" in sentence
    assert convert(brain, "--spacing", "3,2,2") == 0


@pytest.mark.parametrize("text", ["3,2", "0,1,1", "a,b,c", "1,1,-2", "nan,1,1"])
def test_impossible_voxel_size(tmp_path, text, capsys):
    with pytest.raises(SystemExit) as stop:
        convert(write_brain(tmp_path / "b"), "--spacing", text)
    assert stop.value.code == 2
    assert "not a voxel size" in capsys.readouterr().err


def test_dataset_id_taken(tmp_path, nnunet_folders, capsys):
    (nnunet_folders.results / "Dataset701_Other").mkdir()
    sentence = refused(capsys, write_brain(tmp_path / "b"))
    assert "701" in sentence and "Dataset701_Other" in sentence and "-d" in sentence
    assert no_dataset(nnunet_folders)


def test_raw_folder_not_set(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    assert "nnUNet_raw is not set" in refused(capsys, write_brain(tmp_path / "b"))


def test_no_space_before_writing(tmp_path, nnunet_folders, capsys, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1500)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    sentence = refused(capsys, write_brain(tmp_path / "b"))
    assert "no space left" in sentence and "1920 bytes" in sentence and "1500 were free" in sentence
    assert no_dataset(nnunet_folders) and not list(nnunet_folders.raw.rglob("*.tif"))


def test_disk_full_while_writing(tmp_path, nnunet_folders, capsys, monkeypatch):
    """The write itself fails half-way, as on a quota; the half file is removed and the next run completes."""
    brain = write_brain(tmp_path / "b")
    original = raw_formats.FORMATS[".tif"].write

    def fills_up(path, array, spacing, affine):
        original(path, array, spacing, affine)
        if "b_002" in path.name:
            os.truncate(path, 50)
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setitem(raw_formats.FORMATS, ".tif", dataclasses.replace(raw_formats.FORMATS[".tif"], write=fills_up))
        assert "no space left" in refused(capsys, brain)
    assert no_dataset(nnunet_folders)
    assert not list(nnunet_folders.raw.rglob("*b_002*"))
    assert convert(brain) == 0


def test_interrupted_conversion_continues(tmp_path, nnunet_folders, capsys, monkeypatch):
    brain = write_brain(tmp_path / "b", numbers=(1, 2, 3))
    original = raw_dataset.write_case

    def interrupted(case, info, folder):
        if case.identifier == "b_003":
            raise KeyboardInterrupt
        return original(case, info, folder)

    monkeypatch.setattr(raw_dataset, "write_case", interrupted)
    sentence = refused(capsys, brain)
    assert "interrupted after 2 of 3 cases" in sentence and "run the same command again" in sentence
    assert no_dataset(nnunet_folders)
    kept = (nnunet_folders.raw / "Dataset701_Axons/imagesTr/b_001_0000.tif").stat().st_mtime_ns
    monkeypatch.setattr(raw_dataset, "write_case", original)
    assert convert(brain) == 0
    assert (nnunet_folders.raw / "Dataset701_Axons/imagesTr/b_001_0000.tif").stat().st_mtime_ns == kept


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_conversion_never_looks_whole(tmp_path, nnunet_folders, interruptible, how, workers):
    brain = tmp_path / "b"
    generator = np.random.default_rng(0)
    for number in range(1, 13):
        image = generator.integers(0, 60000, (40, 128, 128)).astype(np.uint16)
        write_cube(brain / f"train/volumes/volume-{number:03d}.tiff", image)
        write_cube(brain / f"train/Fine-label/label-{number:03d}.tiff", (image > 59000).astype(np.uint8) * 255)
    command = [sys.executable, "-c", "import sys; from nnunet_neuro.commands.convert import main; sys.exit(main(sys.argv[1:]))",
               "axon", str(brain), "--workers", workers]
    folder = nnunet_folders.raw / "Dataset701_Axons"
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list((folder / "provenance/cases").glob("*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.002)
    os.killpg(process.pid, how)  # as a terminal or a batch system does
    error = process.communicate()[1]
    assert process.returncode == (-signal.SIGKILL if how == signal.SIGKILL else 2), error
    assert not (folder / "dataset.json").exists()
    complete = {path.stem for path in (folder / "provenance/cases").glob("*.json")}
    assert 3 <= len(complete) < 12
    kept = {name: (folder / f"imagesTr/{name}_0000.tif").stat().st_mtime_ns for name in complete}
    assert convert(brain) == 0
    assert kept == {name: (folder / f"imagesTr/{name}_0000.tif").stat().st_mtime_ns for name in complete}
    assert len(list((folder / "imagesTr").glob("*.tif"))) == 12
    assert not (folder / "provenance/partial").exists()
