"""`nnneuro_convert thalamus`: the benchmark's layout, its labels, lists and normalisation, other layouts, and bad input."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_neuro.commands.convert import main
from nnunet_neuro.subjects import check_disjoint, find_scans, held_out, read_subjects
from tests.fake_sources.thalamus import (
    CODES,
    FINE_TUNING,
    IMAGES,
    MASKS,
    SHAPE,
    TESTING,
    TRAINING,
    structures,
    write_benchmark,
    write_nifti,
    write_subject,
)

thalamus = importlib.import_module("nnunet_neuro.dataset_converters.thalamus")


@pytest.fixture
def data(tmp_path) -> Path:
    """The benchmark's folder."""
    return write_benchmark(tmp_path / "source")


@pytest.fixture
def raw(tmp_path) -> Path:
    return tmp_path / "raw"


def convert(source: Path, raw: Path, *options: str, code: int = 0) -> Path:
    """The dataset made from a source."""
    assert main(["thalamus", str(source), "--raw", str(raw), "--workers", "1", *map(str, options)]) == code
    return next(raw.glob("Dataset*"), raw) if code == 0 else raw


def refused(capsys, source: Path, raw: Path, *options: str) -> str:
    """Convert bad input; gives the one sentence."""
    capsys.readouterr()
    convert(source, raw, *options, code=2)
    said = capsys.readouterr()
    sentences = [line for line in said.err.replace("\r", "\n").splitlines() if line.startswith("nnneuro_convert: error:")]
    assert len(sentences) == 1 and "Traceback" not in said.err and said.out == ""
    return sentences[0]


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


def image_of(dataset: Path, case: str, channel: int = 0, part: str = "imagesTr") -> np.ndarray:
    return voxels(dataset / part / f"{case}_{channel:04d}.nii.gz")


def names_in(folder: Path) -> list[str]:
    return sorted({re.sub(r"(_\d{4})?\.nii\.gz$", "", path.name) for path in folder.glob("*.nii.gz")})


def description(dataset: Path) -> dict:
    return json.loads((dataset / "dataset.json").read_text())


def folds(dataset: Path) -> list[dict[str, list[str]]]:
    return json.loads((dataset / "splits_final.json").read_text())


# --- the benchmark's layout ---------------------------------------------------------------------------------------------------------


def test_training_and_testing_lists_make_the_training_dataset(data, raw, capsys):
    dataset = convert(data, raw)
    assert dataset.name == "Dataset704_Thalamus"
    assert names_in(dataset / "imagesTr") == names_in(dataset / "labelsTr") == sorted(TRAINING)
    assert names_in(dataset / "imagesTs") == names_in(dataset / "labelsTs") == sorted(TESTING)
    assert description(dataset)["channel_names"] == {"0": "evalue1", "1": "FA", "2": "RD", "3": "MD", "4": "T1"}
    assert "1 of 11 subjects" in capsys.readouterr().err
    (fold,) = folds(dataset)
    assert len(fold["val"]) == 1 and sorted(fold["train"] + fold["val"]) == sorted(TRAINING)


def test_fine_tuning_list_makes_the_second_dataset_with_manual_labels(data, raw):
    dataset = convert(data, raw, "--variant", "fine-tuning", "-d", "705", "--name", "ThalamusManual")
    assert names_in(dataset / "imagesTr") == sorted(FINE_TUNING)
    assert names_in(dataset / "imagesTs") == sorted(TESTING)
    assert not (dataset / "labelsTs").exists(), "the manual labels of the test subjects are withheld"
    for subject in FINE_TUNING:
        np.testing.assert_array_equal(voxels(dataset / f"labelsTr/{subject}.nii.gz"), np.isin(structures(), (1, 2)))


@pytest.mark.parametrize("place", [".", "..", "HCP_processed_data"])
def test_source_is_found_from_above_and_below(data, raw, place):
    assert names_in(convert(data / place, raw, "--channels", "FA") / "imagesTr") == sorted(TRAINING)


def test_images_keep_voxels_type_order_and_affine(data, raw):
    dataset = convert(data, raw, "--channels", "T1,MD")
    for subject in TRAINING:
        for channel, name in enumerate(("T1", "MD")):
            before = nibabel.load(data / "HCP_processed_data" / subject / IMAGES[name])
            after = nibabel.load(dataset / f"imagesTr/{subject}_{channel:04d}.nii.gz")
            np.testing.assert_array_equal(np.asarray(after.dataobj), np.asarray(before.dataobj))
            np.testing.assert_array_equal(after.affine, before.affine)
            assert after.get_data_dtype() == np.float32


def test_each_subject_may_have_its_own_orientation(data, raw):
    turned = np.array([[0, 0, 1.25, -9], [-1.25, 0, 0, 8], [0, 1.25, 0, 7], [0, 0, 0, 1]])
    write_subject(data / "HCP_processed_data" / TRAINING[0], affine=turned)
    dataset = convert(data, raw, "--channels", "FA")
    np.testing.assert_array_equal(nibabel.load(dataset / f"imagesTr/{TRAINING[0]}_0000.nii.gz").affine, turned)
    np.testing.assert_array_equal(nibabel.load(dataset / f"labelsTr/{TRAINING[0]}.nii.gz").affine, turned)


BENCHMARK_COMBINATIONS = (
    "evalue1,FA,RD,MD,T1", "evalue1,FA,RD,MD", "T1", "FA,RD", "FA,T1", "FA,MD", "FA,evalue1", "RD,MD", "FA", "MD", "RD", "evalue1", "MD,T1",
    "evalue1,T1",
)  # fmt: skip


@pytest.mark.parametrize("channels", BENCHMARK_COMBINATIONS)
def test_every_combination_of_the_benchmark(data, raw, channels):
    documented = thalamus.__doc__.split("The benchmark's 14:")[1].split("Every subject")[0].replace("(its final model)", "").split()
    assert sorted(documented) == sorted(BENCHMARK_COMBINATIONS)
    dataset = convert(data, raw, "--channels", channels, "--limit", "1")
    names = channels.split(",")
    assert list(description(dataset)["channel_names"].values()) == names
    (subject, *_) = names_in(dataset / "imagesTr")
    for number, name in enumerate(names):
        np.testing.assert_array_equal(image_of(dataset, subject, number), voxels(data / "HCP_processed_data" / subject / IMAGES[name]))


@pytest.mark.parametrize("sides", ["merged", "separate"])
@pytest.mark.parametrize("rater", MASKS)
def test_labels_of_every_rater(data, raw, rater, sides):
    for subject in (*TRAINING, *TESTING):
        write_subject(data / "HCP_processed_data" / subject, masks=MASKS)
    dataset = convert(data, raw, "--label", rater, "--sides", sides, "--channels", "FA")
    expected = np.array((0, 1, 1, 0) if sides == "merged" else (0, 1, 2, 0), np.uint8)[structures()]
    names = ["background", "thalamus"] if sides == "merged" else ["background", "thalamus_left", "thalamus_right"]
    assert description(dataset)["labels"] == {name: value for value, name in enumerate(names)}
    for part in ("labelsTr", "labelsTs"):
        for subject in names_in(dataset / part):
            np.testing.assert_array_equal(voxels(dataset / part / f"{subject}.nii.gz"), expected)


def whole_masks(data: Path, rater: str, subjects) -> None:
    for subject in subjects:
        write_nifti(data / "HCP_processed_data" / subject / MASKS[rater], np.isin(structures(), (1, 2)).astype(np.uint8))


@pytest.mark.parametrize("rater, options", [("staple", ()), ("manual", ("--variant", "fine-tuning"))])
def test_masks_that_know_no_sides_can_only_be_merged(data, raw, capsys, rater, options):
    whole_masks(data, rater, (*TRAINING, *TESTING, *FINE_TUNING))
    dataset = convert(data, raw, "--channels", "FA", *options)
    np.testing.assert_array_equal(voxels(dataset / f"labelsTr/{names_in(dataset / 'labelsTr')[0]}.nii.gz"), np.isin(structures(), (1, 2)))
    sentence = refused(capsys, data, raw.with_name("other"), "--channels", "FA", "--sides", "separate", *options)
    assert "holds none of the codes 10, 49, but 0, 1" in sentence and "--sides merged" in sentence and MASKS[rater] in sentence


def test_codes_of_another_program_are_noticed(data, raw, capsys):
    subject = data / "HCP_processed_data" / TRAINING[0]
    shutil.copy(subject / MASKS["quicknat"], subject / MASKS["freesurfer"])
    assert "none of the codes 10, 49, but 0, 3, 7, 25" in refused(capsys, data, raw, "--label", "freesurfer", "--channels", "FA")


def test_strange_code_in_a_thalamus_mask_is_an_error(data, raw, capsys):
    codes = np.array((0, 10, 49, 12))
    write_nifti(data / "HCP_processed_data" / TRAINING[2] / MASKS["staple"], codes[structures()].astype(np.int16))
    assert "holds the value 12" in refused(capsys, data, raw, "--channels", "FA")
    assert convert(data, raw, "--channels", "FA", "--other", "background", "--overwrite")


# --- the lists ----------------------------------------------------------------------------------------------------------------------


def write_list(path: Path, *subjects: str) -> Path:
    path.write_text("".join(f"{subject}\n" for subject in subjects))
    return path


def test_lists_can_be_given(data, raw, tmp_path):
    train, test = write_list(tmp_path / "a.txt", *TRAINING[:3], "201515"), write_list(tmp_path / "b.txt", TRAINING[4])
    dataset = convert(data, raw, "--channels", "FA", "--subjects", f"training={train}", f"testing={test}")
    assert names_in(dataset / "imagesTr") == sorted((*TRAINING[:3], "201515"))
    assert names_in(dataset / "imagesTs") == [TRAINING[4]]


def test_validation_list_fixes_the_split(data, raw, tmp_path):
    train, val = write_list(tmp_path / "a.txt", *TRAINING[:3]), write_list(tmp_path / "b.txt", *TRAINING[3:])
    dataset = convert(data, raw, "--channels", "FA", "--subjects", f"training={train}", f"validation={val}")
    assert folds(dataset) == [{"train": sorted(TRAINING[:3]), "val": sorted(TRAINING[3:])}]


def test_only_a_testing_list_leaves_the_others_for_training(data, raw, tmp_path):
    test = write_list(tmp_path / "b.txt", TRAINING[4])
    dataset = convert(data, raw, "--channels", "FA", "--subjects", f"testing={test}")
    assert len(names_in(dataset / "imagesTr")) == 10 and names_in(dataset / "imagesTs") == [TRAINING[4]]
    assert len(folds(dataset)) == 5


def test_overlapping_lists_are_refused(data, raw, capsys):
    write_list(data / "testing_subjects.txt", *TESTING, TRAINING[1])
    assert f"subject {TRAINING[1]} stands in the training list and in the testing list" in refused(capsys, data, raw)
    write_list(data / "testing_subjects.txt", *TESTING, FINE_TUNING[1])
    assert f"subject {FINE_TUNING[1]}" in refused(capsys, data, raw)


@pytest.mark.parametrize("content, words", [("", "is empty"), ("# nothing\n\n", "is empty"), ("100206\n100307\n100206\n", "100206 twice")])
def test_bad_list_is_refused(data, raw, capsys, content, words):
    (data / "training_subjects.txt").write_text(content)
    assert words in refused(capsys, data, raw)


def test_list_that_is_not_there_is_refused(data, raw, capsys, tmp_path):
    assert "nowhere.txt" in refused(capsys, data, raw, "--subjects", f"training={tmp_path / 'nowhere.txt'}")
    (data / "fine_tuning_subjects.txt").unlink()
    assert "no list of the fine-tuning subjects" in refused(capsys, data, raw, "--variant", "fine-tuning")


def test_listed_subject_without_files_is_named(data, raw, capsys):
    shutil.rmtree(data / "HCP_processed_data" / TRAINING[3])
    assert f"no file of subject {TRAINING[3]}" in refused(capsys, data, raw)


def test_validation_part_is_the_same_in_every_run_and_follows_the_seed(data, raw):
    split = folds(convert(data, raw, "--channels", "FA", "--validation", "0.4"))
    (raw / "Dataset704_Thalamus/splits_final.json").unlink()
    assert folds(convert(data, raw, "--channels", "FA", "--validation", "0.4")) == split
    assert len(split[0]["val"]) == 2
    others = [folds(convert(data, raw / str(seed), "--channels", "FA", "--validation", "0.4", "--seed", str(seed))) for seed in range(1, 6)]
    assert any(other != split for other in others)
    assert len(folds(convert(data, raw / "folds", "--channels", "FA", "--validation", "0"))) == 5


@settings(deadline=None)
@given(subjects=st.sets(st.text("0123456789", min_size=1, max_size=6), max_size=200), fraction=st.floats(0, 0.99), seed=st.integers(0, 9))
def test_held_out_subjects_depend_on_names_and_seed_alone(subjects, fraction, seed):
    chosen = held_out(sorted(subjects), fraction=fraction, seed=seed)
    assert chosen == held_out(sorted(subjects, reverse=True), fraction=fraction, seed=seed) <= subjects
    if fraction > 0 and len(subjects) > 1:
        assert 0 < len(chosen) < len(subjects)
        assert abs(len(chosen) - fraction * len(subjects)) <= 1
        # a further subject takes no more than one place
        assert len(chosen - held_out([*subjects, "further"], fraction=fraction, seed=seed)) <= 1


def test_a_fifth_of_the_963_training_subjects_is_held_out():
    assert len(held_out(map(str, range(963)), fraction=0.2, seed=0)) == 193


@given(lists=st.dictionaries(st.text("abc", min_size=1), st.sets(st.integers(0, 30).map(str))))
def test_lists_are_disjoint_or_refused(lists):
    names = [subject for subjects in lists.values() for subject in subjects]
    if len(set(names)) == len(names):
        check_disjoint(lists)
    else:
        with pytest.raises(ValueError, match="expected it in one"):
            check_disjoint(lists)


def test_lists_are_read_with_comments_and_windows_line_ends(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf100206\r\n\r\n# left out: 1\r\n 100307  # good\r\n")
    assert read_subjects(tmp_path / "list.txt") == ("100206", "100307")


# --- normalisation -------------------------------------------------------------------------------------------------------------------


def test_benchmark_normalisation(data, raw):
    from nnunetv2.preprocessing.normalization.default_normalization_schemes import NoNormalization
    from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme

    path = data / "HCP_processed_data" / TRAINING[0] / IMAGES["FA"]
    spiked = np.random.default_rng(0).normal(0.4, 0.2, SHAPE)
    spiked[0, 0, 0], spiked[1, 1, 1] = 1e4, np.nan
    write_nifti(path, spiked.astype(np.float32))
    dataset = convert(data, raw, "--normalisation", "benchmark", "--channels", "FA,T1")
    # as the benchmark's notebook has it
    expected = np.nan_to_num(spiked.astype(np.float32))
    expected[expected > np.percentile(expected, 99.98)] = np.percentile(expected, 99.98)
    expected = expected * (1 / (expected.max() - expected.min()))
    expected = expected - expected.min()
    written = image_of(dataset, TRAINING[0])
    np.testing.assert_allclose(written, expected, atol=1e-6)
    assert written.min() == 0 and written.max() == 1
    names = list(description(dataset)["channel_names"].values())
    assert [get_normalization_scheme(name) for name in names] == [NoNormalization] * 2
    assert description(dataset)["provenance"]["settings"]["channels"] == ["FA", "T1"]


def test_benchmark_normalisation_of_a_constant_volume_is_zero(data, raw):
    write_nifti(data / "HCP_processed_data" / TRAINING[0] / IMAGES["MD"], np.full(SHAPE, 7, np.int16))
    assert not image_of(convert(data, raw, "--normalisation", "benchmark", "--channels", "MD"), TRAINING[0]).any()


def test_nan_is_refused_unless_it_may_become_zero(data, raw, capsys):
    array = np.ones(SHAPE, np.float32)
    array[2, 2, 2] = np.nan
    write_nifti(data / "HCP_processed_data" / TRAINING[0] / IMAGES["MD"], array)
    assert "NaN" in refused(capsys, data, raw, "--channels", "MD,T1")
    written = image_of(convert(data, raw, "--channels", "MD,T1", "--nan-as-zero", "--overwrite"), TRAINING[0])
    np.testing.assert_array_equal(written, np.nan_to_num(array))


@pytest.mark.parametrize("normalisation", ["nnunet", "benchmark"])
def test_infinite_voxels_are_always_refused(data, raw, capsys, normalisation):
    array = np.ones(SHAPE, np.float32)
    array[2, 2, 2] = np.inf
    write_nifti(data / "HCP_processed_data" / TRAINING[0] / IMAGES["MD"], array)
    assert "infinite" in refused(capsys, data, raw, "--channels", "MD", "--normalisation", normalisation, "--nan-as-zero")


# --- incomplete subjects -------------------------------------------------------------------------------------------------------------


def test_missing_channel_is_named_or_its_subject_left_out(data, raw, capsys):
    (data / "HCP_processed_data" / TRAINING[1] / IMAGES["RD"]).unlink()
    (data / "HCP_processed_data" / TRAINING[2] / MASKS["staple"]).unlink()
    shutil.rmtree(data / "HCP_processed_data" / TRAINING[3])
    sentence = refused(capsys, data, raw)
    assert "(3 incomplete)" in sentence and "--skip-incomplete" in sentence
    dataset = convert(data, raw, "--skip-incomplete")
    assert f"left out 3 incomplete: {TRAINING[3]}, {TRAINING[1]}, {TRAINING[2]}" in capsys.readouterr().err
    assert names_in(dataset / "imagesTr") == sorted((TRAINING[0], TRAINING[4]))


def test_missing_channel_says_which_file_was_expected(data, raw, capsys):
    (data / "HCP_processed_data" / TRAINING[1] / IMAGES["RD"]).unlink()
    assert f"no RD for {TRAINING[1]} in {data}/HCP_processed_data; expected {TRAINING[1]}/diffusion/RD.nii.gz" in refused(capsys, data, raw)
    # a channel that is not wanted may be missing
    assert names_in(convert(data, raw, "--channels", "T1,FA") / "imagesTr") == sorted(TRAINING)


def test_test_subjects_may_lack_a_label_but_no_channel(data, raw, capsys):
    (data / "HCP_processed_data" / TESTING[0] / MASKS["staple"]).unlink()
    dataset = convert(data, raw)
    assert names_in(dataset / "imagesTs") == sorted(TESTING) and names_in(dataset / "labelsTs") == [TESTING[1]]
    (data / "HCP_processed_data" / TESTING[0] / IMAGES["T1"]).unlink()
    assert f"no T1 for {TESTING[0]}" in refused(capsys, data, raw.with_name("other"))


# --- other layouts -------------------------------------------------------------------------------------------------------------------


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1000, SHAPE).astype(np.int16)


def label(*codes: int) -> np.ndarray:
    return np.array(codes, np.int16)[structures()]


GENERIC = ("-d", "900", "--name", "Study")


def test_subject_folders_with_wildcards(tmp_path, raw):
    for number, subject in enumerate(("sub 1", "b", "c")):
        write_nifti(tmp_path / f"in/{subject}/anat/x{number}_T1w.nii.gz", image(number))
        write_nifti(tmp_path / f"in/{subject}/dwi/FA.nii.gz", image(10 + number))
        write_nifti(tmp_path / f"in/{subject}/seg.nii.gz", label(0, 10, 49, 7))
    options = ("--layout", "T1={subject}/anat/*T1w.nii.gz", "FA={subject}/dwi/FA.nii.gz", "--mask", "{subject}/seg.nii.gz",
               "--labels", "49=thalamus_right,10=thalamus_left")
    dataset = convert(tmp_path / "in", raw, *options, "--other", "background", *GENERIC)
    assert names_in(dataset / "imagesTr") == ["b", "c", "sub-1"]
    np.testing.assert_array_equal(image_of(dataset, "b", 1), image(11))
    np.testing.assert_array_equal(voxels(dataset / "labelsTr/c.nii.gz"), label(0, 2, 1, 0))
    assert description(dataset)["labels"] == {"background": 0, "thalamus_right": 1, "thalamus_left": 2}
    assert len(folds(dataset)) == 3


def test_further_codes_are_an_error_unless_they_become_background(tmp_path, raw, capsys):
    for subject in "ab":
        write_nifti(tmp_path / f"in/{subject}.nii.gz", image(1))
        write_nifti(tmp_path / f"in/{subject}_seg.nii.gz", label(0, 10, 49, 7))
    options = ("--layout", "T1={subject}.nii.gz", "--mask", "{subject}_seg.nii.gz", "--labels", "10=a,49=a", *GENERIC)
    assert "holds the value 7" in refused(capsys, tmp_path / "in", raw, *options)
    dataset = convert(tmp_path / "in", raw, *options, "--other", "background", "--overwrite")
    np.testing.assert_array_equal(voxels(dataset / "labelsTr/a.nii.gz"), label(0, 1, 1, 0))


def test_names_background_and_ignore_mean_what_they_mean_to_nnunet(tmp_path, raw):
    for subject in "ab":
        write_nifti(tmp_path / f"in/{subject}.nii.gz", image(1))
        write_nifti(tmp_path / f"in/{subject}_seg.nii.gz", label(0, 5, 6, 7))
    dataset = convert(tmp_path / "in", raw, "--layout", "T1={subject}.nii.gz", "--mask", "{subject}_seg.nii.gz", "--labels",
                      "5=ignore,6=soma,7=background", *GENERIC)
    assert description(dataset)["labels"] == {"background": 0, "soma": 1, "ignore": 2}
    np.testing.assert_array_equal(voxels(dataset / "labelsTr/a.nii.gz"), label(0, 2, 1, 0))


def test_flat_files_side_by_side(tmp_path, raw):
    for subject in ("s1", "s2_x"):
        write_nifti(tmp_path / f"in/{subject}.nii.gz", image(1))
        write_nifti(tmp_path / f"in/{subject}_FA.nii.gz", image(2))
        write_nifti(tmp_path / f"in/{subject}_seg.nii.gz", label(0, 1, 1, 0))
    (tmp_path / "in/._s1.nii.gz").write_bytes(b"what a Mac leaves behind")
    dataset = convert(tmp_path / "in", raw, "--layout", "FA={subject}_FA.nii.gz", "T1={subject}.nii.gz", "--mask", "{subject}_seg.nii.gz",
                      "--labels", "1=thalamus", *GENERIC)
    assert names_in(dataset / "imagesTr") == ["s1", "s2_x"]
    np.testing.assert_array_equal(image_of(dataset, "s1", 0), image(2))


def test_sessions_of_a_subject_stay_in_one_group(tmp_path, raw):
    for subject in "abc":
        for session in ("1", "2"):
            write_nifti(tmp_path / f"in/{subject}/{session}/T1.nii.gz", image(1))
            write_nifti(tmp_path / f"in/{subject}/{session}/seg.nii.gz", label(0, 1, 1, 0))
    options = ("--layout", "T1={subject}/{session}/T1.nii.gz", "--mask", "{subject}/{session}/seg.nii.gz", "--labels", "1=thalamus",
               *GENERIC)
    dataset = convert(tmp_path / "in", raw, *options)
    assert names_in(dataset / "imagesTr") == ["a_1", "a_2", "b_1", "b_2", "c_1", "c_2"]
    assert all({case[0] for case in fold["train"]}.isdisjoint(case[0] for case in fold["val"]) for fold in folds(dataset))
    (fold,) = folds(convert(tmp_path / "in", raw / "held", *options, "--validation", "0.3"))
    assert len(fold["val"]) == 2 and fold["val"][0][0] == fold["val"][1][0]


def test_channels_along_the_fourth_axis(tmp_path, raw, capsys):
    for subject in "ab":
        write_nifti(tmp_path / f"in/images/{subject}.nii.gz", np.stack([image(0), image(1), image(2)], axis=-1))
        write_nifti(tmp_path / f"in/labels/{subject}.nii.gz", label(0, 1, 1, 0))
    options = ("--mask", "labels/{subject}.nii.gz", "--labels", "1=thalamus", *GENERIC)
    dataset = convert(tmp_path / "in", raw, "--layout", "FLAIR,T1,T2=images/{subject}.nii.gz", "--channels", "T2,FLAIR", *options)
    np.testing.assert_array_equal(image_of(dataset, "b", 0), image(2))
    np.testing.assert_array_equal(image_of(dataset, "b", 1), image(0))
    sentence = refused(capsys, tmp_path / "in", raw / "other", "--layout", "FLAIR,T1=images/{subject}.nii.gz", *options)
    assert "has 3 channels; expected 2 (FLAIR,T1)" in sentence


def test_codes_of_a_program_for_another_layout(tmp_path, raw):
    for subject in "ab":
        nibabel_folder = tmp_path / "in" / subject / "mri"
        nibabel_folder.mkdir(parents=True)
        nibabel.save(nibabel.MGHImage(image(1), np.eye(4)), nibabel_folder / "orig.mgz")
        nibabel.save(nibabel.MGHImage(label(*CODES["freesurfer"]).astype(np.int32), np.eye(4)), nibabel_folder / "aparc+aseg.mgz")
    dataset = convert(tmp_path / "in", raw, "--layout", "T1={subject}/mri/orig.mgz", "--mask", "{subject}/mri/aparc+aseg.mgz", "--label",
                      "freesurfer", "--sides", "separate", *GENERIC)
    np.testing.assert_array_equal(voxels(dataset / "labelsTr/a.nii.gz"), label(0, 1, 2, 0))
    np.testing.assert_array_equal(image_of(dataset, "a"), image(1))


def test_two_files_for_one_channel_are_refused(tmp_path, raw, capsys):
    for name in ("run1_T1w", "run2_T1w"):
        write_nifti(tmp_path / f"in/a/{name}.nii.gz", image(1))
    write_nifti(tmp_path / "in/a/seg.nii.gz", label(0, 1, 1, 0))
    sentence = refused(capsys, tmp_path / "in", raw, "--layout", "T1={subject}/*T1w.nii.gz", "--mask", "{subject}/seg.nii.gz", "--labels",
                       "1=a", *GENERIC)
    assert "run1_T1w.nii.gz" in sentence and "run2_T1w.nii.gz" in sentence and "the T1 of a is not clear" in sentence


@settings(deadline=None, max_examples=40)
@given(subjects=st.sets(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,8}", fullmatch=True).filter(lambda name: not name.endswith(".")),
                        min_size=1, max_size=5),
       pattern=st.sampled_from(["{subject}.nii.gz", "{subject}/T1.nii.gz", "x[1]/{subject}_T1.nii", "{subject}/*/{subject}_T1.nii.gz",
                                "**/{subject}_T1.nii.gz", "a/{subject}/b?/c*.nii.gz"]))
def test_every_subject_that_was_written_is_found(tmp_path_factory, subjects, pattern):
    folder = tmp_path_factory.mktemp("patterns")
    lowered = {subject.casefold() for subject in subjects}
    for subject in subjects:
        name = pattern.replace("{subject}", subject).replace("**/", "deep/er/").replace("*", "").replace("?", "2")
        file = folder / name.replace("//", "/s/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    found = find_scans(folder, {"T1": pattern})
    assert len(lowered) == len(subjects) or len(found) <= len(subjects)
    assert {scan.subject for scan in found} == subjects
    assert all(scan.files["T1"].is_file() and scan.session is None for scan in found)


@pytest.mark.parametrize("layout, mask, words", [
    ("T1=T1.nii.gz", "{subject}/seg.nii.gz", "names no {subject}"),
    ("T1={sub}/T1.nii.gz", "{subject}/seg.nii.gz", "holds {sub}"),
    ("T1={subject/T1.nii.gz", "{subject}/seg.nii.gz", "holds {subject/T1.nii.gz"),
    ("T1=/data/{subject}/T1.nii.gz", "{subject}/seg.nii.gz", "leaves the source folder"),
    ("T1=../{subject}/T1.nii.gz", "{subject}/seg.nii.gz", "leaves the source folder"),
    ("T1={subject}/{session}/T1.nii.gz", "{subject}/seg.nii.gz", "{session}"),
    ("mask={subject}/T1.nii.gz", "{subject}/seg.nii.gz", "is no channel"),
    ("T1={subject}/T3.nii.gz", "{subject}/seg.nii.gz", "no T1 for a"),
    ("T1={subject}/T1.nii.gz", "{subject}/seg3.nii.gz", "no mask for a"),
    ("T1={subject}/T3.nii.gz", "{subject}/seg3.nii.gz", "found no training case"),
])  # fmt: skip
def test_bad_pattern_is_refused(tmp_path, raw, capsys, layout, mask, words):
    write_nifti(tmp_path / "in/a/T1.nii.gz", image(1))
    write_nifti(tmp_path / "in/a/seg.nii.gz", label(0, 1, 1, 0))
    assert words in refused(capsys, tmp_path / "in", raw, "--layout", layout, "--mask", mask, "--labels", "1=thalamus", *GENERIC)


# --- BIDS ----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def bids(tmp_path) -> Path:
    """Three subjects, the last one with two sessions; masks and diffusion maps in derivatives, some of them in another space."""
    folder = tmp_path / "bids"
    for subject, session in (("01", ""), ("02", ""), ("03", "ses-a"), ("03", "ses-b")):
        place, name = f"sub-{subject}/{session}".rstrip("/"), f"sub-{subject}_{session}".rstrip("_")
        write_nifti(folder / place / f"anat/{name}_T1w.nii.gz", image(1))
        write_nifti(folder / "derivatives/fmriprep" / place / f"anat/{name}_desc-preproc_T1w.nii.gz", image(2))
        write_nifti(folder / "derivatives/fmriprep" / place / f"anat/{name}_space-MNI152_dseg.nii.gz", label(0, 2, 2, 0))
        write_nifti(folder / "derivatives/fmriprep" / place / f"anat/{name}_dseg.nii.gz", label(0, 1, 1, 0))
        write_nifti(folder / "derivatives/fmriprep" / place / f"anat/{name}_desc-aseg_dseg.nii.gz", label(0, 10, 49, 2))
        write_nifti(folder / "derivatives/tensors" / place / f"dwi/{name}_model-DTI_param-FA_dwimap.nii.gz", image(3))
        write_nifti(folder / "derivatives/tensors" / place / f"dwi/{name}_model-DTI_param-MD_dwimap.nii.gz", image(4))
        (folder / place / f"anat/{name}_T1w.json").write_text("{}")
    return folder


def test_bids_raw_and_derivatives(bids, raw):
    dataset = convert(bids, raw, "--bids", "--channels", "FA,T1w,MD", "--labels", "1=thalamus", *GENERIC)
    assert names_in(dataset / "imagesTr") == ["sub-01", "sub-02", "sub-03_ses-a", "sub-03_ses-b"]
    for channel, seed in enumerate((3, 1, 4)):
        np.testing.assert_array_equal(image_of(dataset, "sub-03_ses-b", channel), image(seed))
    np.testing.assert_array_equal(voxels(dataset / "labelsTr/sub-01.nii.gz"), label(0, 1, 1, 0))
    cases = description(dataset)["provenance"]["cases"]
    assert cases["sub-03_ses-a"]["group"] == cases["sub-03_ses-b"]["group"] == "sub-03"
    assert len(folds(dataset)) == 3


def test_bids_names_can_be_described_closely(bids, raw):
    dataset = convert(bids, raw, "--bids", "--layout", "T1=desc-preproc_T1w", "--mask", "desc-aseg_dseg", "--label", "freesurfer",
                      "--sides", "separate", *GENERIC)
    np.testing.assert_array_equal(image_of(dataset, "sub-01"), image(2))
    np.testing.assert_array_equal(voxels(dataset / "labelsTr/sub-01.nii.gz"), label(0, 1, 2, 0))
    assert description(dataset)["channel_names"] == {"0": "T1"}


@pytest.mark.parametrize("written", ["02", "sub-02"])
def test_bids_lists_name_subjects_with_or_without_sub(bids, raw, tmp_path, written):
    test = write_list(tmp_path / "test.txt", written)
    dataset = convert(bids, raw, "--bids", "--labels", "1=thalamus", "--subjects", f"testing={test}", *GENERIC)
    assert names_in(dataset / "imagesTs") == ["sub-02"]


def test_bids_runs_are_not_chosen_for_the_user(bids, raw, capsys):
    (bids / "sub-01/anat/sub-01_T1w.nii.gz").rename(bids / "sub-01/anat/sub-01_run-1_T1w.nii.gz")
    shutil.copy(bids / "sub-01/anat/sub-01_run-1_T1w.nii.gz", bids / "sub-01/anat/sub-01_run-2_T1w.nii.gz")
    sentence = refused(capsys, bids, raw, "--bids", "--labels", "1=thalamus", *GENERIC)
    assert "sub-01_run-1_T1w.nii.gz" in sentence and "describe it more closely" in sentence


def test_bids_file_that_is_missing_is_named(bids, raw, capsys):
    (bids / "derivatives/fmriprep/sub-02/anat/sub-02_dseg.nii.gz").unlink()
    (bids / "derivatives/fmriprep/sub-02/anat/sub-02_space-MNI152_dseg.nii.gz").unlink()
    (bids / "derivatives/fmriprep/sub-02/anat/sub-02_desc-aseg_dseg.nii.gz").unlink()
    assert "no mask for sub-02" in refused(capsys, bids, raw, "--bids", "--labels", "1=thalamus", *GENERIC)


# --- options that contradict each other ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options, words", [
    (("--labels", "1=a"), "--labels is for --layout and --bids"),
    (("--mask", "{subject}/x.nii.gz"), "needs --layout or --bids"),
    (("--channels", "FA,T3"), "asks for T3; there are evalue1, FA, RD, MD, T1"),
    (("--layout", "T1={subject}/T1.nii.gz", "--labels", "1=a"), "--layout needs --mask"),
    (("--layout", "T1={subject}/T1.nii.gz", "--mask", "{subject}/s.nii.gz"), "the codes of the label are not known"),
    (("--layout", "T1={subject}/a.nii.gz", "T1={subject}/b.nii.gz", "--mask", "{subject}/s.nii.gz", "--labels", "1=a"), "a channel twice"),
    (("--layout", "T1,T2={subject}/a.nii.gz", "T2={subject}/b.nii.gz", "--mask", "{subject}/s.nii.gz", "--labels", "1=a"), "gives twice"),
    (("--bids", "--labels", "1=a"), "holds no folder sub-*"),
])  # fmt: skip
def test_contradicting_options_are_refused(data, raw, capsys, options, words):
    assert words in refused(capsys, data, raw, *options)


@pytest.mark.parametrize("options", [
    ("--layout", "T1.nii.gz"), ("--subjects", "train=x.txt"), ("--subjects", "training"), ("--validation", "1"), ("--validation", "nan"),
    ("--labels", "a=1"), ("--labels", "1=a,1=b"), ("--labels", "0=a"), ("--labels", "1="), ("--channels", "FA,,T1"),
    ("--channels", "FA,FA"), ("--label", "atlas"),
])  # fmt: skip
def test_malformed_options_are_explained(data, raw, capsys, options):
    with pytest.raises(SystemExit) as stopped:
        convert(data, raw, *options)
    assert stopped.value.code == 2 and options[0] in capsys.readouterr().err


def test_folder_of_another_layout_is_explained(tmp_path, raw, capsys, bids):
    assert "no folder" in refused(capsys, tmp_path / "nowhere", raw)
    (tmp_path / "empty").mkdir()
    assert "describe another layout with --layout and --mask" in refused(capsys, tmp_path / "empty", raw)
    assert "add --bids" in refused(capsys, bids, raw)


# --- nnU-Net and real data -----------------------------------------------------------------------------------------------------------


# the commands of a file in one process, since each alone would import torch again, as would each worker that is not forked
NNUNET_STEPS = '''
import multiprocessing, os, shlex, shutil, sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
forking = multiprocessing.get_context("fork")
multiprocessing.get_context = lambda method=None: forking


def run(command):
    from nnunetv2.experiment_planning import plan_and_preprocess_entrypoints as entry
    from nnunetv2.experiment_planning.plans_for_pretraining import move_plans_between_datasets as move
    main_of = {
        "nnUNetv2_plan_and_preprocess": (entry.plan_and_preprocess_entry, ["-np", "1", "-npfp", "1"]),
        "nnUNetv2_extract_fingerprint": (entry.extract_fingerprint_entry, ["-np", "1"]),
        "nnUNetv2_move_plans_between_datasets": (move.entry_point_move_plans_between_datasets, []),
        "nnUNetv2_preprocess": (entry.preprocess_entry, ["-np", "1"]),
    }
    program, *arguments = shlex.split(command)
    main, for_a_small_machine = main_of[program]
    sys.argv = [program, *arguments, *for_a_small_machine]
    main()


def copy(command):
    source, target = (Path(os.path.expandvars(word)) for word in command.split()[1:])
    assert source.name == "{dataset,splits_final}.json", "the braces are the shell's"
    for name in ("dataset.json", "splits_final.json"):
        shutil.copy(source.parent / name, target)


def trainer(name, plans):
    import torch
    from batchgenerators.utilities.file_and_folder_operations import load_json
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    folder = os.environ["nnUNet_preprocessed"] + "/" + name
    made = nnUNetTrainer({**load_json(f"{folder}/{plans}.json"), "continue_training": False}, "3d_fullres", 0,
                         load_json(f"{folder}/dataset.json"), device=torch.device("cpu"))
    made.initialize()
    return made


for line in Path(sys.argv[1]).read_text().splitlines():
    copy(line) if line.startswith("cp ") else run(line)
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
first, second = trainer("Dataset704_Thalamus", "nnUNetPlans"), trainer("Dataset705_ThalamusManual", "nnUNetPlansThalamus")
first.save_checkpoint("weights.pth")
load_pretrained_weights(second.network, "weights.pth")
assert all((ours == theirs).all() for ours, theirs in zip(first.network.encoder.parameters(), second.network.encoder.parameters()))
print("SPLIT", *second.do_split())
'''


def documented_commands() -> list[str]:
    lines = thalamus.__doc__.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.startswith(("    nnUNetv2_", "    cp "))]


@pytest.mark.slow
def test_documented_commands_share_the_plans(data, nnunet_folders, tmp_path):
    """Every command of the docstring but the two trainings, for which weights are handed over."""
    commands = documented_commands()
    assert len(commands) == 7 and sum(command.startswith("nnUNetv2_train") for command in commands) == 2
    options = ("--channels", "evalue1,T1")
    assert main(["thalamus", str(data), "-d", "704", *options]) == 0
    assert main(["thalamus", str(data), "-d", "705", "--name", "ThalamusManual", "--variant", "fine-tuning", *options]) == 0
    (tmp_path / "steps.txt").write_text("\n".join(command for command in commands if not command.startswith("nnUNetv2_train")))
    (tmp_path / "steps.py").write_text(NNUNET_STEPS)
    done = subprocess.run([sys.executable, "steps.py", "steps.txt"], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    plans = [json.loads(path.read_text()) for path in (nnunet_folders.preprocessed / "Dataset704_Thalamus/nnUNetPlans.json",
                                                       nnunet_folders.preprocessed / "Dataset705_ThalamusManual/nnUNetPlansThalamus.json")]
    assert plans[0]["configurations"]["3d_fullres"]["architecture"] == plans[1]["configurations"]["3d_fullres"]["architecture"]
    assert plans[1]["dataset_name"] == "Dataset705_ThalamusManual"
    preprocessed = nnunet_folders.preprocessed / "Dataset705_ThalamusManual" / "nnUNetPlansThalamus_3d_fullres"
    assert sorted(path.stem for path in preprocessed.glob("*.pkl")) == sorted(FINE_TUNING)
    (fold,) = folds(nnunet_folders.raw / "Dataset705_ThalamusManual")
    assert f"SPLIT {fold['train']} {fold['val']}" in done.stdout, "nnU-Net trains on the split of the dataset"


# folder, options, and where it holds the same classes in another file: that file and the values there
REAL = {
    "mri_t1_freesurfer_aseg": (
        "mri_t1_freesurfer_aseg",
        ("--layout", "T1=images/{subject}_T1.nii.gz", "--mask", "labels_full/{subject}.nii.gz", "--label", "freesurfer", "--sides",
         "separate"), 1, ("labels_subcortical/visualqc_id001.nii.gz", (1, 2))),
    "mri_colin27_aal": (
        ".",
        ("--layout", "T1=mri_{subject}_aal/image_T1.nii.gz", "--mask", "mri_{subject}_aal/labels_aal116.nii.gz", "--labels",
         "77=thalamus_left,78=thalamus_right", "--other", "background"), 1, ("mri_colin27_aal/labels_subcortical.nii.gz", (11, 12))),
    "mri_mouse_dti_thalamus": (
        "mri_mouse_dti_thalamus",
        ("--layout", *(f"{name}=images/{{subject}}_{name}.nii.gz" for name in ("FA", "MD", "AD", "RD")), "--mask",
         "labels/{subject}_subcortical.nii.gz", "--labels", "1=thalamus_left,2=thalamus_right", "--other", "background"), 1,
        ("labels/mouse01_subcortical.nii.gz", (1, 2))),
    "mri_spinalcord_sct": (
        "mri_spinalcord_sct",
        ("--layout", *(f"{name.upper()}={{subject}}/image_{name}.nii.gz" for name in ("mt0", "mt1", "t1w")), "--mask",
         "{subject}/label_mt1_seg.nii.gz", "--labels", "1=cord", "--skip-incomplete"), 1, ("mt/label_mt1_seg.nii.gz", (1,))),
    "mri_msd_hippocampus": (
        "mri_msd_hippocampus",
        ("--layout", "T1=imagesTr/{subject}.nii.gz", "--mask", "labelsTr/{subject}.nii.gz", "--labels", "1=anterior,2=posterior"), 161,
        None),
}


class SerialPool:
    """Stands for a pool of nnU-Net's, whose spawned worker would import torch again."""

    def __init__(self, processes: int):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def starmap(self, function, arguments):
        return [function(*one) for one in arguments]


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_data_pass_through(shared_data, nnunet_folders, monkeypatch, name):
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    place, options, number, other = REAL[name]
    assert main(["thalamus", str(shared_data / place), *options, "-d", "900", "--name", "Real"]) == 0
    dataset = nnunet_folders.raw / "Dataset900_Real"
    identifiers = names_in(dataset / "imagesTr")
    assert len(identifiers) == number
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: SimpleNamespace(Pool=SerialPool))
    verify_dataset_integrity(str(dataset), num_processes=1)
    if number > 1:
        assert len(folds(dataset)) == 5
    if other:
        file, values = other
        label = voxels(dataset / f"labelsTr/{identifiers[0]}.nii.gz")
        reference = nibabel.load(shared_data / place / file)
        source = description(dataset)["provenance"]["cases"][identifiers[0]]["sources"][0]["path"]
        for value, theirs in enumerate(values, start=1):
            np.testing.assert_array_equal(label == value, np.asarray(reference.dataobj) == theirs)
        for written in (f"labelsTr/{identifiers[0]}.nii.gz", f"imagesTr/{identifiers[0]}_0000.nii.gz"):
            np.testing.assert_allclose(nibabel.load(dataset / written).affine, nibabel.load(source).affine, atol=1e-6)
