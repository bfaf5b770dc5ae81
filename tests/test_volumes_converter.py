"""`nnneuro_convert volumes`: pairing, classes, cutting, formats, dry run, preview, limit, and real data of every kind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from nnunet_neuro.commands.convert import main
from nnunet_neuro.volumes import open_volume
from tests.fake_sources.volumes import write_pair

SPACING = ("--spacing", "0.03,0.006,0.006")
CLASSES = ("--labels", "1=membrane,2=synapse")


def convert(*arguments) -> int:
    return main(["volumes", "--workers", "1", *map(str, arguments)])


def dataset_of(folders, name: str = "Dataset707_Volumes") -> tuple[Path, dict]:
    folder = folders.raw / name
    return folder, json.loads((folder / "dataset.json").read_text())


def refused(capsys, *arguments) -> str:
    """Convert bad input; gives the one sentence."""
    capsys.readouterr()
    assert convert(*arguments) == 2
    said = capsys.readouterr()
    sentences = [line for line in said.err.replace("\r", "\n").splitlines() if line.startswith("nnneuro_convert: error:")]
    assert len(sentences) == 1 and "Traceback" not in said.err and said.out == ""
    return sentences[0]


def pairs(folder: Path, *names: str, **options) -> tuple[str, ...]:
    for name in names:
        write_pair(folder, name, **options)
    return "--image", f"{folder}/em/{{case}}.tif", "--label", f"{folder}/seg/{{case}}.tif"


# --- pairing -------------------------------------------------------------------------------------------------------------------------


def test_voxels_and_classes_arrive(tmp_path, nnunet_folders):
    assert convert(*pairs(tmp_path, "a", "b", values=(0, 7, 9)), "--labels", "9=first,7=second", *SPACING) == 0
    folder, description = dataset_of(nnunet_folders)
    assert description["labels"] == {"background": 0, "first": 1, "second": 2}
    np.testing.assert_array_equal(tifffile.imread(folder / "imagesTr/a_0000.tif"), tifffile.imread(tmp_path / "em/a.tif"))
    expected = np.array([0, 0, 0, 0, 0, 0, 0, 2, 0, 1])[tifffile.imread(tmp_path / "seg/a.tif")]
    np.testing.assert_array_equal(tifffile.imread(folder / "labelsTr/a.tif"), expected)
    assert json.loads((folder / "imagesTr/a.json").read_text())["spacing"] == [0.03, 0.006, 0.006]


def test_channels_and_groups_in_the_pattern(tmp_path, nnunet_folders):
    for animal in ("m1", "m2"):
        for number in (1, 2):
            for kind, suffix in (("em", "c0"), ("em", "c1"), ("seg", "l")):
                write_pair(tmp_path / "w", f"{animal}{number}{suffix}", values=(0, 1))
                target = tmp_path / animal / f"{number}_{suffix}.tif"
                target.parent.mkdir(exist_ok=True)
                (tmp_path / f"w/{kind}/{animal}{number}{suffix}.tif").rename(target)
    assert convert("--image", f"signal={tmp_path}/{{group}}/{{case}}_c0.tif", "--image", f"background={tmp_path}/{{group}}/{{case}}_c1.tif",
                   "--label", f"{tmp_path}/{{group}}/{{case}}_l.tif", "--labels", "1=cell", *SPACING) == 0
    _, description = dataset_of(nnunet_folders)
    assert description["channel_names"] == {"0": "signal", "1": "background"}
    cases = description["provenance"]["cases"]
    assert {name: case["group"] for name, case in cases.items()} == {"m1-1": "m1", "m1-2": "m1", "m2-1": "m2", "m2-2": "m2"}


def test_table(tmp_path, nnunet_folders):
    for name in ("a", "b", "c", "d"):
        write_pair(tmp_path, name)
    (tmp_path / "cases.csv").write_text("case,group,split,image:em,label\n" + "".join(
        f"{name},{group},{split},em/{name}.tif,{label}\n" for name, group, split, label in
        (("a", "x", "train", "seg/a.tif"), ("b", "y", "", "seg/b.tif"), ("c", "z", "val", "seg/c.tif"), ("d", "", "test", ""))))
    assert convert("--table", tmp_path / "cases.csv", *CLASSES, *SPACING) == 0
    folder, description = dataset_of(nnunet_folders)
    assert description["channel_names"] == {"0": "em"} and description["numTraining"] == 3
    assert json.loads((folder / "splits_final.json").read_text()) == [{"train": ["a", "b"], "val": ["c"]}]
    assert (folder / "imagesTs/d_0000.tif").is_file() and not (folder / "labelsTs").exists()


def test_several_channels_in_one_file(tmp_path, nnunet_folders):
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(1).integers(0, 99, (2, 4, 6, 5)).astype(np.uint8))
        np.save(tmp_path / f"{name}_seg.npy", np.ones((4, 6, 5), np.uint8))
    command = ("--image", tmp_path / "{case}.npy", "--label", tmp_path / "{case}_seg.npy", "--labels", "1=cell", *SPACING)
    # the image pattern would also take the labels for images
    (tmp_path / "seg").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"{name}_seg.npy").rename(tmp_path / f"seg/{name}.npy")
    assert convert(*command[:3], tmp_path / "seg/{case}.npy", *command[4:], "--channels", "dapi,gfp") == 0
    assert dataset_of(nnunet_folders)[1]["channel_names"] == {"0": "dapi", "1": "gfp"}


def test_label_beside_its_image(tmp_path, nnunet_folders):
    """A file that fits both patterns belongs to the one that says more."""
    write_pair(tmp_path, "a")
    write_pair(tmp_path, "b")
    for name in ("a", "b"):
        (tmp_path / f"seg/{name}.tif").rename(tmp_path / f"em/{name}_label.tif")
    assert convert("--image", tmp_path / "em/{case}.tif", "--label", tmp_path / "em/{case}_label.tif", *CLASSES, *SPACING) == 0
    assert set(dataset_of(nnunet_folders)[1]["provenance"]["cases"]) == {"a", "b"}


def test_channels_of_test_volumes_go_by_name(tmp_path, nnunet_folders, capsys):
    for name in ("a0", "a1", "t0", "t1"):
        write_pair(tmp_path, name, values=(0, 1))
    em = tmp_path / "em"
    training = ("--image", f"signal={em}/a0.tif", "--image", f"background={em}/a1.tif", "--label", f"{tmp_path}/seg/a0.tif",
                "--labels", "1=cell", *SPACING)
    assert "name them alike" in refused(capsys, *training, "--test-image", f"x={em}/t0.tif", "--test-image", f"{em}/t1.tif")
    assert convert(*training, "--test-image", f"background={em}/t1.tif", "--test-image", f"signal={em}/t0.tif") == 0
    folder = dataset_of(nnunet_folders)[0]
    np.testing.assert_array_equal(tifffile.imread(next(folder.glob("imagesTs/*_0000.tif"))), tifffile.imread(tmp_path / "em/t0.tif"))


def test_volumes_in_containers_are_named_by_them(tmp_path, nnunet_folders):
    import h5py

    for name in ("train", "held-out"):
        (tmp_path / name).mkdir()
        with h5py.File(tmp_path / name / "brain.h5", "w") as file:
            file["raw"], file["labels"] = np.ones((4, 6, 5), np.uint8), np.ones((4, 6, 5), np.uint8)
    assert convert("--image", tmp_path / "train/brain.h5/raw", "--label", tmp_path / "train/brain.h5/labels", "--labels", "1=cell",
                   *SPACING, "--test-image", tmp_path / "held-out/brain.h5/raw") == 0
    assert set(dataset_of(nnunet_folders)[1]["provenance"]["cases"]) == {"brain", "brain-test"}


@pytest.mark.parametrize("suffix", ["n5", "zarr", "h5", "nii.gz", "npy"])
def test_workers_read_every_format(tmp_path, nnunet_folders, suffix):
    from tests.test_volumes import FORMATS

    name = {"n5": "N5", "zarr": "Zarr v3", "h5": "HDF5", "nii.gz": "NIfTI", "npy": "npy"}[suffix]
    if name not in FORMATS:
        pytest.skip("zarr 3 needs Python 3.11")
    array = np.random.default_rng(0).integers(0, 2, (7, 12, 10)).astype(np.uint8)
    (tmp_path / "in").mkdir()
    address = FORMATS[name][0](tmp_path / "in", array)
    assert main(["volumes", "--workers", "2", "--image", str(address), "--label", str(address), "--labels", "1=cell", "--case-size",
                 "4,6,10", "--file-ending", ".tif", *SPACING]) == 0
    folder = dataset_of(nnunet_folders)[0]
    assert sum(int(tifffile.imread(path).sum()) for path in folder.glob("labelsTr/*.tif")) == array.sum()


def test_many_source_files_are_one_line_of_the_description(tmp_path, nnunet_folders):
    from tests.test_volumes import FORMATS

    if "Zarr v3" not in FORMATS:
        pytest.skip("zarr 3 needs Python 3.11")
    for name in ("image", "label"):
        (tmp_path / name).mkdir()
        FORMATS["Zarr v3"][0](tmp_path / name, np.ones((16, 24, 20), np.uint8))
    assert convert("--image", tmp_path / "image/v.zarr", "--label", tmp_path / "label/v.zarr", "--labels", "1=cell", *SPACING) == 0
    folder, description = dataset_of(nnunet_folders)
    (case,) = description["provenance"]["cases"].values()
    assert [(source["path"], source["files"]) for source in case["sources"]] == [
        (str(tmp_path / f"{name}/v.zarr"), 4 * 3 * 3 + 1) for name in ("image", "label")]
    record = json.loads(next((folder / "provenance/cases").iterdir()).read_text())
    assert len(record["sources"]) == 2 * (4 * 3 * 3 + 1)


def test_whole_numbers_saved_as_floats_are_labels(tmp_path, nnunet_folders, capsys):
    files = ("--image", tmp_path / "em/{case}.tif", "--label", tmp_path / "l/{case}.npy", *CLASSES, *SPACING)
    (tmp_path / "l").mkdir()
    for name in ("a", "b"):
        write_pair(tmp_path, name)
        np.save(tmp_path / f"l/{name}.npy", tifffile.imread(tmp_path / f"seg/{name}.tif").astype(np.float32))
    assert convert(*files) == 0
    written = tifffile.imread(dataset_of(nnunet_folders)[0] / "labelsTr/a.tif")
    np.testing.assert_array_equal(written, tifffile.imread(tmp_path / "seg/a.tif"))
    np.save(tmp_path / "l/a.npy", np.full((8, 12, 10), 0.5, np.float32))
    assert "a.npy holds 0.5" in refused(capsys, *files)


def test_dry_run_sees_a_dataset_that_is_in_the_way(tmp_path, nnunet_folders, capsys):
    files = (*pairs(tmp_path, "a", "b"), *SPACING)
    assert convert(*files, *CLASSES) == 0
    assert "exists" in refused(capsys, *files, "--labels", "1=other,2=names", "--dry-run")
    assert convert(*files, "--labels", "1=other,2=names", "--dry-run", "--overwrite") == 0
    assert dataset_of(nnunet_folders)[1]["labels"] == {"background": 0, "membrane": 1, "synapse": 2}


@pytest.mark.parametrize("damage", ['{"sources": 3, "outputs": {}}', '{"sources": [{}], "outputs": {}}', "[]", "{"])
def test_a_damaged_record_is_written_again(tmp_path, nnunet_folders, damage):
    files = (*pairs(tmp_path, "a", "b"), *CLASSES, *SPACING)
    assert convert(*files) == 0
    folder = dataset_of(nnunet_folders)[0]
    (folder / "provenance/cases/a.json").write_text(damage)
    assert convert(*files) == 0
    assert json.loads((folder / "provenance/cases/a.json").read_text())["split"] == "train"


def test_damaged_copied_folds_are_a_warning(tmp_path, nnunet_folders, capsys):
    (nnunet_folders.preprocessed / "Dataset707_Volumes").mkdir()
    (nnunet_folders.preprocessed / "Dataset707_Volumes/splits_final.json").write_text("{")
    assert convert(*pairs(tmp_path, "a", "b"), *CLASSES, *SPACING) == 0
    assert "made from other cases" in capsys.readouterr().err


# --- labels --------------------------------------------------------------------------------------------------------------------------


def test_foreground_of_ids_and_probabilities(tmp_path, nnunet_folders):
    for name, label in (("a", np.arange(480).reshape(8, 6, 10) * 300), ("b", np.arange(480).reshape(8, 6, 10) / 480)):
        np.save(tmp_path / f"{name}.npy", np.ones((8, 6, 10), np.uint8))
        (tmp_path / "l").mkdir(exist_ok=True)
        np.save(tmp_path / f"l/{name}.npy", label.astype(np.uint32 if name == "a" else np.float32))
    assert convert("--image", tmp_path / "{case}.npy", "--label", tmp_path / "l/{case}.npy", "--variant", "foreground",
                   "--threshold", "0.5", "--foreground-name", "mitochondrion", *SPACING) == 0
    folder, description = dataset_of(nnunet_folders)
    assert description["labels"] == {"background": 0, "mitochondrion": 1}
    assert [int(tifffile.imread(folder / f"labelsTr/{name}.tif").sum()) for name in "ab"] == [479, 239]


@pytest.mark.parametrize("other", ["background", "ignore"])
def test_other_values(tmp_path, nnunet_folders, other):
    assert convert(*pairs(tmp_path, "a", "b", values=(0, 1, 200)), "--labels", "1=membrane", "--other-labels", other, *SPACING) == 0
    folder, description = dataset_of(nnunet_folders)
    expected = description["labels"][other]
    assert set(np.unique(tifffile.imread(folder / "labelsTr/a.tif")[tifffile.imread(tmp_path / "seg/a.tif") == 200])) == {expected}


def test_a_value_without_a_name_is_an_error_and_the_names_are_asked_for(tmp_path, nnunet_folders, capsys):
    files = pairs(tmp_path, "a", "b", values=(0, 1, 200))
    assert "holds the value 200" in refused(capsys, *files, "--labels", "1=membrane", *SPACING)
    assert "a.tif holds 0, 1, 200" in refused(capsys, *files, *SPACING)
    assert not list(nnunet_folders.raw.rglob("dataset.json"))


# --- cutting -------------------------------------------------------------------------------------------------------------------------


def test_cut_cases_make_up_the_volume_and_stay_in_one_group(tmp_path, nnunet_folders):
    assert convert(*pairs(tmp_path, "a", "b", shape=(9, 20, 11)), *CLASSES, *SPACING, "--case-size", "4,8,11") == 0
    folder, description = dataset_of(nnunet_folders)
    cases = {name: case for name, case in description["provenance"]["cases"].items() if case["volume"] == "a"}
    assert len(cases) == 9 and {case["group"] for case in cases.values()} == {"a"}
    whole = np.zeros((9, 20, 11), np.uint8)
    for name, case in cases.items():
        region = tuple(slice(*map(int, part.split(":"))) for part in case["region"].split(","))
        whole[region] += tifffile.imread(folder / f"labelsTr/{name}.tif") + 1
    np.testing.assert_array_equal(whole, tifffile.imread(tmp_path / "seg/a.tif") + 1)
    for fold in json.loads((folder / "splits_final.json").read_text()):
        assert len({description["provenance"]["cases"][name]["group"] for name in fold["val"]}) == 1


def test_margin_overlaps_and_gap_separates(tmp_path, nnunet_folders):
    assert convert(*pairs(tmp_path, "a", shape=(30, 8, 8)), *CLASSES, *SPACING, "--case-size", "7,8,8", "--margin", "1,0,0",
                   "--groups-per-volume", "2", "--gap", "6") == 0
    folder, description = dataset_of(nnunet_folders)
    planes = {}
    for case in description["provenance"]["cases"].values():
        start, stop = map(int, case["region"].split(",")[0].split(":"))
        planes.setdefault(case["group"], []).append((start, stop))
    assert planes == {"a/0": [(0, 7), (5, 12)], "a/1": [(18, 25), (23, 30)]}
    assert len(json.loads((folder / "splits_final.json").read_text())) == 2


def test_another_cut_is_another_dataset(tmp_path, nnunet_folders, capsys):
    files = (*pairs(tmp_path, "a", "b", shape=(8, 8, 8)), *CLASSES, *SPACING)
    assert convert(*files, "--case-size", "4,8,8") == 0
    assert "case_size" in refused(capsys, *files, "--case-size", "8,4,8")
    assert convert(*files, "--case-size", "8,4,8", "--overwrite") == 0
    folder = dataset_of(nnunet_folders)[0]
    np.testing.assert_array_equal(tifffile.imread(folder / "imagesTr/a_0001_0000.tif"), tifffile.imread(tmp_path / "em/a.tif")[:, 4:])


# --- dry run, limit, preview -----------------------------------------------------------------------------------------------------------


def test_dry_run_tells_everything_and_writes_nothing(tmp_path, nnunet_folders, capsys):
    files = pairs(tmp_path / "in", "a", "b")
    assert convert(*files, *CLASSES, *SPACING, "--dry-run", "--licence", "CC0") == 0
    said = capsys.readouterr().out
    assert "Dataset707_Volumes" in said and "2 cases of 2 groups" in said and "8x12x10" in said and "CC0" in said
    label = np.stack([tifffile.imread(tmp_path / f"in/seg/{name}.tif") for name in "ab"])
    for name, value in (("background", 0), ("membrane", 1), ("synapse", 2)):
        assert f"{(label == value).mean():.4%}" in next(line for line in said.splitlines() if line.split()[0] == name)
    assert not list(nnunet_folders.raw.iterdir())


def test_limit_is_completed_by_a_later_run(tmp_path, nnunet_folders):
    files = (*pairs(tmp_path, "a", "b", "c"), *CLASSES, *SPACING)
    assert convert(*files, "--limit", 2) == 0
    folder, description = dataset_of(nnunet_folders)
    assert description["numTraining"] == 2
    before = (folder / "imagesTr/a_0000.tif").stat().st_mtime_ns
    assert convert(*files) == 0
    assert dataset_of(nnunet_folders)[1]["numTraining"] == 3 and (folder / "imagesTr/a_0000.tif").stat().st_mtime_ns == before


def test_one_preview_per_group(tmp_path, nnunet_folders, capsys):
    from PIL import Image

    assert convert(*pairs(tmp_path, "a", "b"), *CLASSES, *SPACING, "--case-size", "4,12,10", "--preview") == 0
    pictures = [Path(line) for line in capsys.readouterr().out.splitlines()[1:]]
    assert [picture.name for picture in pictures] == ["a_0000.png", "b_0000.png"]
    for picture in pictures:
        pixels = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3).astype(int)
        assert picture.parent.parent == nnunet_folders.raw / "previews"
        assert (np.ptp(pixels, axis=1) > 60).mean() > 0.02  # the label's colours over the grey image


# --- bad input -------------------------------------------------------------------------------------------------------------------------

BAD = {
    "nothing named": (lambda f: [], "no volumes are named"),
    "no label": (lambda f: ["--image", f"{f}/em/{{case}}.tif"], "need --image and --label"),
    "pattern that finds nothing": (lambda f: ["--image", f"{f}/row/{{case}}.tif", "--label", f"{f}/seg/{{case}}.tif"], "found nothing"),
    "unpaired image": (lambda f: ["--image", _lonely(f / "em"), "--label", f"{f}/seg/{{case}}.tif"], "case lonely has no label"),
    "unpaired label": (lambda f: ["--image", f"{f}/em/{{case}}.tif", "--label", _lonely(f / "seg")], "lonely.tif has no image"),
    "several files without a name": (lambda f: ["--image", f"{f}/em/*.tif", "--label", f"{f}/seg/*.tif"], "both fit"),
    "unknown placeholder": (lambda f: ["--image", f"{f}/em/{{subject}}.tif", "--label", f"{f}/seg/{{case}}.tif"], "{subject}"),
    "channel twice": (lambda f: ["--image", f"a={f}/em/{{case}}.tif", "--image", f"a={f}/seg/{{case}}.tif", "--label",
                                 f"{f}/seg/{{case}}.tif"], "given twice"),
    "channel names of another number": (lambda f: ["--image", f"{f}/em/{{case}}.tif", "--label", f"{f}/seg/{{case}}.tif", "--channels",
                                                   "a,b"], "names 2 channels"),
    "test labels alone": (lambda f: ["--image", f"{f}/em/{{case}}.tif", "--label", f"{f}/seg/{{case}}.tif", "--test-label", "x"],
                          "without --test-image"),
    "table and patterns": (lambda f: ["--table", "x.csv", "--image", "y"], "both given"),
    "no table": (lambda f: ["--table", f"{f}/none.csv"], "no table"),
    "empty table": (lambda f: ["--table", _table(f, "")], "columns (none)"),
    "table of another kind": (lambda f: ["--table", _table(f, "name,path\na,b\n")], "columns name, path"),
    "table line without an image": (lambda f: ["--table", _table(f, "case,image,label\na,,seg/a.tif\n")], "line 2"),
    "table with an unknown split": (lambda f: ["--table", _table(f, "case,split,image,label\na,tset,em/a.tif,seg/a.tif\n")], "'tset'"),
    "too many slabs": (lambda f: ["--image", f"{f}/em/{{case}}.tif", "--label", f"{f}/seg/{{case}}.tif", "--groups-per-volume", "9",
                                  "--gap", "4"], "fewer slabs"),
    "bossdb address without a channel": (lambda f: ["--image", "bossdb://a/b", "--label", "bossdb://a/b/c"], "bossdb://a/b"),
    "unknown scheme": (lambda f: ["--image", "ftp://a/b", "--label", f"{f}/seg/a.tif"], "ftp://a/b"),
}


def _lonely(folder: Path) -> str:
    (folder / "lonely.tif").write_bytes((folder / "a.tif").read_bytes())
    return f"{folder}/{{case}}.tif"


def _table(folder: Path, text: str) -> str:
    (folder / "cases.csv").write_text(text)
    return str(folder / "cases.csv")


@pytest.mark.parametrize("what", BAD)
def test_bad_command_ends_in_one_sentence(tmp_path, nnunet_folders, capsys, what):
    for name in ("a", "b"):
        write_pair(tmp_path, name)
    arguments, sentence = BAD[what]
    assert sentence in refused(capsys, *arguments(tmp_path), *CLASSES, *SPACING)
    assert not list(nnunet_folders.raw.iterdir())


def test_foreground_variant_takes_no_class_names(tmp_path, nnunet_folders, capsys):
    assert "only one" in refused(capsys, *pairs(tmp_path, "a", "b"), *CLASSES, *SPACING, "--variant", "foreground")
    assert "voxel size" in refused(capsys, *pairs(tmp_path, "a", "b"), *CLASSES)


@pytest.mark.parametrize("option", [("--labels", "1"), ("--labels", "a=b"), ("--labels", "1=a,1=b"), ("--labels", "0=background"),
                                    ("--spacing", "1,2"), ("--spacing", "1,2,inf"), ("--case-size", "0,1,1"), ("--margin", "-1"),
                                    ("--limit", "0")])
def test_bad_words_are_refused_by_the_parser(option, capsys):
    with pytest.raises(SystemExit) as stopped:
        convert("--image", "x", *option)
    assert stopped.value.code == 2 and option[1] in capsys.readouterr().err


# --- real data -------------------------------------------------------------------------------------------------------------------------

REAL = {
    "sparse X-ray planes": ("xray_mtneuro/sparse_3d", "1=vessel,2=cell,3=axon,4=ignore", "0.00117,0.00117,0.00117", (), 1),
    "serial sections": ("em_vnc_sstem", "1=membrane,2=mitochondrion,3=synapse", "0.05,0.0046,0.0046", (), 1),
    "serial sections in groups": ("em_isbi2012", "1=membrane", "0.05,0.004,0.004", ("--groups-per-volume", "2", "--gap", "64"), 2),
    "dense neurons, cut": ("em_fib25_medulla", "1=boundary", "0.01,0.01,0.01", ("--case-size", "150,125,125"), 4),
    "flat images of several sizes": ("em_axondeepseg_sem", "1=myelin,2=axon", "1,0.1,0.1", (), 8),
    "light-sheet axons": ("ls_trailmap_axons", "1=axon,2=edge,3=ignore", "3,3.25,3.25", (), 11),
    "whole brain": ("ls_brainreg_hemispheres", "1=left,2=right", "100,100,100", (), 1),
}


@pytest.mark.parametrize("what", REAL)
def test_real_data_pass_through(shared_data, nnunet_folders, what):
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    folder, labels, spacing, options, number = REAL[what]
    images = sorted((shared_data / folder / "images").iterdir())
    pattern = f"{{case}}{images[0].suffix}"
    assert convert("--image", shared_data / folder / "images" / pattern, "--label", shared_data / folder / "labels" / pattern,
                   "--labels", labels, "--spacing", spacing, *options) == 0
    dataset, description = dataset_of(nnunet_folders)
    assert description["file_ending"] == images[0].suffix and description["numTraining"] == number
    verify_dataset_integrity(str(dataset), num_processes=1)
    if number == len(images):
        written = open_volume(next(dataset.glob(f"imagesTr/{images[0].stem.replace('_', '-')}_0000*")))
        np.testing.assert_array_equal(written.read(), open_volume(images[0]).read())


def test_two_real_channels(shared_data, nnunet_folders):
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    folder = shared_data / "ls_cellfinder_cells/unlabelled"
    signal, background = folder / "sample_ch0_signal.tif", folder / "sample_ch1_background.tif"
    assert convert("--image", f"signal={signal}", "--image", f"background={background}", "--label", background, "--variant", "foreground",
                   "--threshold", "3000", "--spacing", "5,2,2") == 0
    dataset, description = dataset_of(nnunet_folders)
    assert description["channel_names"] == {"0": "signal", "1": "background"}
    verify_dataset_integrity(str(dataset), num_processes=1)
