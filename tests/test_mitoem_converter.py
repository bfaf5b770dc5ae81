"""`nnneuro_convert mitoem`: layouts, ids of any size, classes, boundaries at cuts, and bad input."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from scipy import ndimage

from nnunet_neuro.commands.convert import main
from nnunet_neuro.instances import BOUNDARY, INTERIOR, boundary_classes
from tests.fake_sources.mitoem import (
    CODES,
    TRAIN,
    class_codes,
    mitochondria,
    write_animal,
    write_mitoem,
    write_png_slices,
    write_rgb_ids,
    write_tiff_slices,
)

SPACING = (0.03, 0.008, 0.008)
AT = ("--spacing", "0.03,0.008,0.008")
LARGE_IDS = (65536, 70000, 2**33 + 5, 2**64 - 1)


def convert(*arguments) -> int:
    return main(["mitoem", "--workers", "1", *map(str, arguments)])


def dataset_of(folders, name: str = "Dataset706_Mitochondria") -> tuple[Path, dict]:
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


def written_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.tif"))


# --- MitoEM ---------------------------------------------------------------------------------------------------------------------------


def test_mitoem_archives_become_its_official_split(tmp_path, nnunet_folders):
    for letter, seed in (("R", 1), ("H", 2)):
        write_mitoem(tmp_path / "MitoEM", letter=letter, seed=seed)
    assert convert(tmp_path / "MitoEM") == 0
    folder, description = dataset_of(nnunet_folders)
    assert json.loads((folder / "splits_final.json").read_text()) == [
        {"train": ["EM30-H_train", "EM30-R_train"], "val": ["EM30-H_val", "EM30-R_val"]}]
    assert written_names(folder / "imagesTs") == ["EM30-H_test_0000.tif", "EM30-R_test_0000.tif"]
    assert not (folder / "labelsTs").exists() and not (folder / "instancesTr").exists()
    assert description["labels"] == {"background": 0, "interior": 1, "boundary": 2}
    case = description["provenance"]["cases"]["EM30-R_val"]
    assert (case["group"], case["spacing"], case["boundary_width_um"]) == ("EM30-R/val", list(SPACING), 0.016)
    image, ids = mitochondria(1, (12, 20, 24))
    np.testing.assert_array_equal(tifffile.imread(folder / "imagesTr/EM30-R_val_0000.tif"), image[6:9])
    np.testing.assert_array_equal(tifffile.imread(folder / "imagesTs/EM30-R_test_0000.tif"), image[9:])
    np.testing.assert_array_equal(tifffile.imread(folder / "labelsTr/EM30-R_val.tif"),
                                  boundary_classes(ids[6:9], spacing=SPACING, width=0.016))


def test_mitoem_in_a_folder_per_volume_is_found_too(tmp_path, nnunet_folders):
    image, ids = mitochondria(1, (9, 20, 24))
    write_png_slices(tmp_path / "MitoEM-H/im", image)
    write_tiff_slices(tmp_path / "MitoEM-H/mito_train", ids[:6].astype(np.uint16))
    write_tiff_slices(tmp_path / "MitoEM-H/mito_val", ids[6:].astype(np.uint16), first=6)
    assert convert(tmp_path / "MitoEM-H", "--variant", "foreground") == 0
    folder = dataset_of(nnunet_folders)[0]
    assert written_names(folder / "imagesTr") == ["MitoEM-H_train_0000.tif", "MitoEM-H_val_0000.tif"]
    assert not (folder / "imagesTs").exists()


def test_planes_without_labels_can_be_left_out(tmp_path, nnunet_folders):
    assert convert(write_mitoem(tmp_path), "--no-test") == 0
    assert not (dataset_of(nnunet_folders)[0] / "imagesTs").exists()


def test_cases_cut_from_a_volume_have_the_boundaries_of_the_whole(tmp_path, nnunet_folders):
    write_mitoem(tmp_path)
    assert convert(tmp_path, "--case-size", "4,10,9", "--keep-instances", "--boundary-width", "3") == 0
    folder, description = dataset_of(nnunet_folders)
    image, ids = mitochondria(1, (12, 20, 24))
    ids = ids[:len(TRAIN)]
    whole = boundary_classes(ids, spacing=SPACING, width=0.024)
    seen = np.zeros(ids.shape, int)
    for name, case in description["provenance"]["cases"].items():
        if case["split"] != "train":
            continue
        z, y, x = (int(part[1:]) for part in name.split("_")[-3:])
        here = tuple(slice(first, first + length) for first, length in zip((z, y, x), case["shape"]))
        seen[here] += 1
        np.testing.assert_array_equal(tifffile.imread(folder / f"imagesTr/{name}_0000.tif"), image[here])
        np.testing.assert_array_equal(tifffile.imread(folder / f"labelsTr/{name}.tif"), whole[here])
        np.testing.assert_array_equal(tifffile.imread(folder / f"instancesTr/{name}.tif"), ids[here])
        assert case["group"] == "EM30-R/train"
    assert (seen == 1).all() and whole[:, :10].max() == BOUNDARY
    fold = json.loads((folder / "splits_final.json").read_text())[0]
    assert len(fold["train"]) == 2 * 2 * 3 and len(fold["val"]) == 1 * 2 * 3


def test_cases_are_named_by_their_place_in_the_image(tmp_path, nnunet_folders):
    write_mitoem(tmp_path)
    assert convert(tmp_path, "--case-size", "3,20,12") == 0
    names = written_names(dataset_of(nnunet_folders)[0] / "labelsTr")
    assert "EM30-R_val_z0006_y0000_x0012.tif" in names and "EM30-R_train_z0003_y0000_x0000.tif" in names


# --- ids ------------------------------------------------------------------------------------------------------------------------------


def _tiff(folder: Path, ids: np.ndarray) -> Path:
    tifffile.imwrite(folder / "ids.tif", ids, photometric="minisblack")
    return folder / "ids.tif"


def _hdf5(folder: Path, ids: np.ndarray) -> Path:
    with h5py.File(folder / "ids.h5", "w") as content:
        content.create_dataset("volumes/labels", data=ids, compression="gzip")
    return folder / "ids.h5" / "volumes/labels"


def _zarr(folder: Path, ids: np.ndarray) -> Path:
    zarr.save(str(folder / "ids.zarr"), ids)
    return folder / "ids.zarr"


def _npy(folder: Path, ids: np.ndarray) -> Path:
    np.save(folder / "ids.npy", ids)
    return folder / "ids.npy"


def _slices(folder: Path, ids: np.ndarray) -> Path:
    return write_tiff_slices(folder / "ids", ids)


@pytest.mark.parametrize(("write", "dtype"), [(_tiff, np.uint32), (_tiff, np.uint64), (_hdf5, np.uint64), (_hdf5, np.int64),
                                              (_zarr, np.uint64), (_npy, np.uint64), (_slices, np.uint32), (_slices, np.uint64)])
def test_ids_above_65535_survive_unchanged(tmp_path, nnunet_folders, write, dtype):
    possible = tuple(identifier for identifier in LARGE_IDS if identifier <= np.iinfo(dtype).max) + (7, 65543)
    image, ids = mitochondria(4, ids=possible[-4:])
    ids = ids.astype(dtype)
    write_png_slices(tmp_path / "em", image)
    assert convert("--image", tmp_path / "em", "--instances", write(tmp_path, ids), *AT, "--keep-instances") == 0
    folder = dataset_of(nnunet_folders)[0]
    kept = tifffile.imread(folder / "instancesTr/em_train.tif")
    assert kept.dtype == dtype and sorted(set(np.unique(kept).tolist()) - {0}) == sorted(possible[-4:])
    np.testing.assert_array_equal(kept, ids)
    label = tifffile.imread(folder / "labelsTr/em_train.tif")
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, boundary_classes(ids, spacing=SPACING, width=0.016))
    components, count = ndimage.label(label == INTERIOR, np.ones((3, 3, 3)))
    assert count >= 4 and all(len(np.unique(ids[components == number])) == 1 for number in range(1, count + 1))


def test_ids_packed_in_colours_are_read_when_asked_for_and_refused_when_not(tmp_path, nnunet_folders, capsys):
    image, ids = mitochondria(4)
    write_png_slices(tmp_path / "em", image)
    write_rgb_ids(tmp_path / "ids", ids)
    source = ("--image", tmp_path / "em", "--instances", tmp_path / "ids", *AT, "--keep-instances")
    said = refused(capsys, *source)
    assert "--rgb-ids" in said and "seg0000.png" in said and "grey" not in said
    assert convert(*source, "--rgb-ids") == 0
    np.testing.assert_array_equal(tifffile.imread(dataset_of(nnunet_folders)[0] / "instancesTr/em_train.tif"), ids)


def test_foreground_is_every_object(tmp_path, nnunet_folders):
    assert convert(write_mitoem(tmp_path), "--variant", "foreground") == 0
    folder, description = dataset_of(nnunet_folders)
    assert description["labels"] == {"background": 0, "object": 1}
    np.testing.assert_array_equal(tifffile.imread(folder / "labelsTr/EM30-R_val.tif"), mitochondria(1, (12, 20, 24))[1][6:9] > 0)


def test_width_is_in_voxels_or_a_length(tmp_path, nnunet_folders):
    write_mitoem(tmp_path)
    labels = {}
    for number, width in enumerate(("2", "16nm", "0.016um", "0.032 um")):
        assert convert(tmp_path, "--boundary-width", width, "-d", 10 + number) == 0
        labels[width] = tifffile.imread(nnunet_folders.raw / f"Dataset0{10 + number}_Mitochondria/labelsTr/EM30-R_train.tif")
    assert (labels["2"] == labels["16nm"]).all() and (labels["2"] == labels["0.016um"]).all()
    assert (labels["0.032 um"] == BOUNDARY).sum() > (labels["2"] == BOUNDARY).sum()


def test_planes_can_be_looked_at_alone(tmp_path, nnunet_folders):
    image, ids = mitochondria(1)
    ids[5:][ids[5:] == 70000] = 70001  # touches 70000 across planes only
    write_png_slices(tmp_path / "em", image)
    write_tiff_slices(tmp_path / "ids", ids.astype(np.uint32))
    for number, planes in enumerate(("3d", "in-plane"), 1):
        assert convert("--image", tmp_path / "em", "--instances", tmp_path / "ids", *AT, "--boundary-planes", planes, "-d", number) == 0
    whole, flat = (tifffile.imread(nnunet_folders.raw / f"Dataset00{number}_Mitochondria/labelsTr/em_train.tif") for number in (1, 2))
    assert (whole[5][ids[5] == 70001] == BOUNDARY).mean() > (flat[5][ids[5] == 70001] == BOUNDARY).mean()
    np.testing.assert_array_equal(whole[2], flat[2])


def test_volumes_of_any_name_are_groups_of_one_dataset(tmp_path, nnunet_folders):
    arguments = []
    for name in ("one", "two", "three"):
        image, ids = mitochondria(len(name))
        with h5py.File(tmp_path / f"{name}.h5", "w") as content:
            content["em"], content["ids"] = image, ids
        arguments += ["--image", f"{name}={tmp_path}/{name}.h5/em", "--instances", tmp_path / f"{name}.h5/ids"]
    assert convert(*arguments, *AT) == 0
    folder, description = dataset_of(nnunet_folders)
    assert {case["group"] for case in description["provenance"]["cases"].values()} == {"one/train", "two/train", "three/train"}
    assert len(json.loads((folder / "splits_final.json").read_text())) == 3


# --- EManalysis -----------------------------------------------------------------------------------------------------------------------


def test_animals_of_emanalysis_become_classes_by_the_majority_of_each_instance(tmp_path, nnunet_folders):
    for animal, seed in (("mouseA", 1), ("mouseB", 2)):
        write_animal(tmp_path / animal, seed=seed)
    assert convert(tmp_path, "--variant", "semantic", *AT, "--case-size", "3,20,24", "--workers", "2") == 0
    folder, description = dataset_of(nnunet_folders)
    assert description["labels"] == {"background": 0, "axon": 1, "dendrite": 2, "cell_body": 3, "glia": 4, "ignore": 5}
    ids = mitochondria(1, ids=(1, 2, 300, 65535))[1]
    expected = np.select([ids == identifier for identifier in (1, 2, 300, 65535)], [1, 2, 3, 4])
    for z in (0, 3, 6):  # the first plane's wrong codes are outvoted by planes of other cases
        written = tifffile.imread(folder / f"labelsTr/mouseA_train_z{z:04d}_y0000_x0000.tif")
        np.testing.assert_array_equal(written, expected[z:z + 3])
    assert len(json.loads((folder / "splits_final.json").read_text())) == 2
    with (folder / "cases.csv").open() as table:
        assert {row["volume"] for row in csv.DictReader(table)} == {"mouseA/train", "mouseB/train"}


def test_unsure_and_uncoded_instances_are_ignored(tmp_path, nnunet_folders):
    animal = write_animal(tmp_path / "mouseA")
    ids = mitochondria(1, ids=(1, 2, 300, 65535))[1]
    codes = class_codes(ids)
    codes[ids == 2], codes[ids == 300] = CODES[4], 0
    write_png_slices(animal / "mito_export_maingroups", codes, prefix="mito_s")
    assert convert(animal, "--variant", "semantic", *AT) == 0
    written = tifffile.imread(dataset_of(nnunet_folders)[0] / "labelsTr/mouseA_train.tif")
    assert (written[(ids == 2) | (ids == 300)] == 5).all() and (written[ids == 1] == 1).all()


def test_codes_can_be_named_and_merged(tmp_path, nnunet_folders):
    animal = write_animal(tmp_path / "mouseA")
    names = "23299=neurite,23300=neurite,22241=background,22243=glia"
    assert convert(animal, "--variant", "semantic", "--labels", names, *AT) == 0
    folder, description = dataset_of(nnunet_folders)
    assert description["labels"] == {"background": 0, "neurite": 1, "glia": 2}
    ids = mitochondria(1, ids=(1, 2, 300, 65535))[1]
    expected = np.select([ids == identifier for identifier in (1, 2, 300, 65535)], [1, 1, 0, 2])
    np.testing.assert_array_equal(tifffile.imread(folder / "labelsTr/mouseA_train.tif"), expected)


def test_corrected_class_codes_are_written_by_the_next_run(tmp_path, nnunet_folders):
    animal = write_animal(tmp_path / "mouseA")
    assert convert(animal, "--variant", "semantic", *AT) == 0
    ids = mitochondria(1, ids=(1, 2, 300, 65535))[1]
    write_png_slices(animal / "mito_export_maingroups", np.where(ids > 0, CODES[1], 0).astype(np.uint16), prefix="mito_s")
    assert convert(animal, "--variant", "semantic", *AT) == 0
    written = tifffile.imread(dataset_of(nnunet_folders)[0] / "labelsTr/mouseA_train.tif")
    np.testing.assert_array_equal(written, (ids > 0) * 2)


def test_human_names_of_emanalysis_are_found(tmp_path, nnunet_folders):
    image, ids = mitochondria(1)
    write_png_slices(tmp_path / "human/human_em_export_8nm", image)
    write_tiff_slices(tmp_path / "human/human_gt_export_8nm", ids.astype(np.uint32), first=0)
    assert convert(tmp_path / "human", *AT) == 0
    assert written_names(dataset_of(nnunet_folders)[0] / "labelsTr") == ["human_train.tif"]


CONFIGURATION = """\
SYSTEM:
  NUM_CPUS: 8
AUTOENCODER:
  TARGET: (64, 64, 64)
DATASET:
  EM_PATH: 'datasets/mouseA/em_export/'
  LABEL_PATH: 'datasets/mouseA/mito_export_unique_id/'
  GT_PATH: 'datasets/mouseA/mito_export_maingroups/'
  FILE_FORMAT: 'png'
  CHUNK_SIZE: [2, 4096, 4096]
  DATAINFO: 'features/mouseA/data_info.json'
MODE:
  DPRC: 'iter'
"""


@pytest.fixture
def configuration(tmp_path) -> Path:
    """A repository of EManalysis with its configuration and data."""
    write_animal(tmp_path / "EManalysis/datasets/mouseA")
    file = tmp_path / "EManalysis/configs/mouseA.yaml"
    file.parent.mkdir()
    file.write_text(CONFIGURATION)
    return file


def test_a_configuration_of_emanalysis_is_a_source(configuration, nnunet_folders, capsys):
    assert convert(configuration, "--variant", "semantic", *AT) == 0
    assert "CHUNK_SIZE, DATAINFO" in capsys.readouterr().err
    folder, description = dataset_of(nnunet_folders)
    assert list(description["provenance"]["cases"]) == ["mouseA_train"]
    assert tifffile.imread(folder / "labelsTr/mouseA_train.tif").max() == 4


@pytest.mark.parametrize(("change", "expected"), [
    (("DATAINFO:", "DATINFO:"), "DATASET.DATINFO"),
    (("MODE:", "MODUS:"), "a section MODUS"),
    (("FILE_FORMAT: 'png'", "FILE_FORMAT: 'jpg'"), "FILE_FORMAT 'jpg'"),
    (("FILE_FORMAT: 'png'", "FILE_FORMAT: 'tif'"), "(EM_PATH) holds mito_s0000.png"),
    (("FILE_FORMAT: 'png'", "EXCLUDE_BORDER_OBJECTS: True"), "objects at the border"),
    (("mouseA/em_export", "mouseX/em_export"), "no folder datasets/mouseX/em_export/ (DATASET.EM_PATH"),
    (("EM_PATH", "#"), "has no DATASET.EM_PATH"),
    (("DATASET:", "DATASET: [1"), "is no YAML file"),
    (("DATASET", "PTC"), "has no section DATASET"),
])
def test_a_configuration_that_asks_for_something_else_is_refused_by_name(configuration, capsys, nnunet_folders, change, expected):
    configuration.write_text(CONFIGURATION.replace(*change))
    assert expected in refused(capsys, configuration, *AT)
    assert not list(nnunet_folders.raw.iterdir())


# --- bad input ------------------------------------------------------------------------------------------------------------------------


def _without_image(folder):
    write_tiff_slices(folder / "EM30-R-mito-train-val-v2/mito-train-v2", np.ones((3, 4, 4), np.uint16))
    return [folder]


def _without_labels(folder):
    write_png_slices(folder / "EM30-R-im/im", np.ones((3, 4, 4), np.uint8))
    return [folder]


def _val_alone(folder):
    return [write_mitoem(folder, parts=("val",))]


def _two_label_versions(folder):
    write_mitoem(folder)
    write_tiff_slices(folder / "EM30-R-mito-train-val/mito-train", np.ones((3, 20, 24), np.uint16))
    return [folder]


def _missing_slice(folder):
    write_mitoem(folder)
    (folder / "EM30-R-mito-train-val-v2/mito-train-v2/seg0003.tif").unlink()
    return [folder]


def _labels_beyond_the_image(folder):
    write_mitoem(folder)
    for number in range(7, 12):
        (folder / f"EM30-R-im/im/im{number:04d}.png").unlink()
    return [folder]


def _other_numbering(folder):
    write_animal(folder)
    ids = mitochondria(1)[1].astype(np.uint16)
    for path in (folder / "mito_export_unique_id").iterdir():
        path.unlink()
    write_png_slices(folder / "mito_export_unique_id", ids, first=1)
    return [folder, *AT]


def _pair(folder, ids):
    np.save(folder / "em.npy", mitochondria(1)[0])
    np.save(folder / "ids.npy", ids)
    return ["--image", folder / "em.npy", "--instances", folder / "ids.npy", *AT]


def _float_ids(folder):
    return _pair(folder, mitochondria(1)[1].astype(np.float64))


def _mask(folder):
    return _pair(folder, mitochondria(1)[1] > 0)


def _more_label_planes(folder):
    return _pair(folder, np.ones((10, 20, 24), np.uint16))


def _fewer_label_planes(folder):
    return _pair(folder, np.ones((5, 20, 24), np.uint16))


def _transposed(folder):
    return _pair(folder, mitochondria(1)[1].T)


def _negative(folder):
    return _pair(folder, -mitochondria(1)[1].astype(np.int64))


def _no_spacing(folder):
    return _pair(folder, mitochondria(1)[1])[:-2]


def _one_slice(folder):
    write_png_slices(folder / "em", mitochondria(1)[0])
    return ["--image", folder / "em/im0000.png", "--instances", folder / "em", *AT]


def _half_a_pair(folder):
    return _pair(folder, mitochondria(1)[1])[:2]


def _classes_for_boundary(folder):
    return [*_pair(folder, mitochondria(1)[1]), "--classes", folder / "ids.npy"]


def _semantic_without_classes(folder):
    return [write_animal(folder / "rat", classes=False), *AT, "--variant", "semantic"]


def _unknown_code(folder):
    return [write_animal(folder / "rat"), *AT, "--variant", "semantic", "--labels", "23299=axon,23300=dendrite,22241=cell_body"]


def _no_code(folder):
    _pair(folder, mitochondria(1)[1])
    np.save(folder / "codes.npy", np.where(mitochondria(1)[1] == 7, 23299, 0))
    return [*_pair(folder, mitochondria(1)[1]), "--classes", folder / "codes.npy", "--variant", "semantic", "--labels", "23299=axon"]


def _classes_of_another_shape(folder):
    np.save(folder / "codes.npy", np.full((9, 20, 23), 23299))
    return [*_pair(folder, mitochondria(1)[1]), "--classes", folder / "codes.npy", "--variant", "semantic"]


def _float_classes(folder):
    np.save(folder / "codes.npy", np.full((9, 20, 24), 23299.0))
    return [*_pair(folder, mitochondria(1)[1]), "--classes", folder / "codes.npy", "--variant", "semantic"]


def _same_name_twice(folder):
    pair = _pair(folder, mitochondria(1)[1])[:4]
    return [*pair, *pair, *AT]


def _one_name_for_two(folder):
    write_mitoem(folder, letter="R")
    write_mitoem(folder, letter="H")
    return [f"cortex={folder}"]


def _rgb_of_a_file(folder):
    return [*_pair(folder, mitochondria(1)[1]), "--rgb-ids"]


def _nothing(folder):
    return []


def _unknown_layout(folder):
    write_png_slices(folder / "pictures", mitochondria(1)[0])
    return [folder]


def _no_folder(folder):
    return [folder / "mouse"]


def _no_configuration(folder):
    return [folder / "mouse.yaml"]


BAD = {
    _without_image: "no image slices for",
    _without_labels: "no labels for",
    _val_alone: "has no mito-train folder",
    _two_label_versions: "are both the labels of EM30-R; keep one",
    _missing_slice: "without 3 (1 missing)",
    _labels_beyond_the_image: "are numbered 6 to 8, those of",
    _other_numbering: "are numbered 1 to 9, those of",
    _float_ids: "holds float64 voxels; expected integer instance ids",
    _mask: "holds bool voxels; expected integer instance ids",
    _more_label_planes: "has shape (10, 20, 24), but its image",
    _fewer_label_planes: "has shape (5, 20, 24), but its image",
    _transposed: "has shape (24, 20, 9), but its image",
    _negative: "instance id -70000",
    _no_spacing: "does not state its voxel size; give it as --spacing",
    _one_slice: "name the folder of slices",
    _half_a_pair: "1 --image and 0 --instances",
    _classes_for_boundary: "--classes is for --variant semantic",
    _semantic_without_classes: "has no class codes",
    _unknown_code: "the code 22243; expected one of 23299, 23300, 22241: name it with --labels",
    _no_code: "instance 65536",
    _classes_of_another_shape: "has shape (9, 20, 23), but its image",
    _float_classes: "holds float64 voxels; expected integer class codes",
    _same_name_twice: "would both be volume 'em'",
    _one_name_for_two: "cannot all be called 'cortex'",
    _rgb_of_a_file: "is no folder of PNG slices",
    _nothing: "no source named",
    _unknown_layout: "holds neither MitoEM",
    _no_folder: "no folder",
    _no_configuration: "no file",
}


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.__name__.strip("_"))
def test_bad_input_ends_in_one_sentence(bad, tmp_path, nnunet_folders, capsys):
    (tmp_path / "source").mkdir()
    assert BAD[bad] in refused(capsys, *bad(tmp_path / "source"))
    assert not [path for folder in nnunet_folders.raw.iterdir() for path in folder.rglob("*.tif")]
    assert not (nnunet_folders.raw / "Dataset706_Mitochondria/dataset.json").exists()


@pytest.mark.parametrize("option", [["--boundary-width", "-1"], ["--boundary-width", "2mm"], ["--case-size", "0,4,4"], ["--case-size", "4"],
                                    ["--labels", "axon=1"], ["--labels", "1=a,1=b"], ["--labels", "23299=ignore"], ["--spacing", "1,0,1"]])
def test_an_option_that_means_nothing_is_refused(option, capsys):
    with pytest.raises(SystemExit) as stop:
        convert("somewhere", *option)
    assert stop.value.code == 2 and option[0] in capsys.readouterr().err


def test_a_stated_voxel_size_comes_before_the_option_and_before_the_known_one(tmp_path, nnunet_folders, capsys):
    image, ids = mitochondria(1)
    tifffile.imwrite(tmp_path / "em.tif", image, imagej=True, resolution=(50, 50), metadata={"axes": "ZYX", "spacing": 0.04, "unit": "um"})
    np.save(tmp_path / "ids.npy", ids)
    assert convert("--image", tmp_path / "em.tif", "--instances", tmp_path / "ids.npy", *AT, "--boundary-width", "3") == 0
    assert "is used instead of --spacing" in capsys.readouterr().err
    case = dataset_of(nnunet_folders)[1]["provenance"]["cases"]["em_train"]
    assert (case["spacing"], case["boundary_width_um"]) == ([0.04, 0.02, 0.02], 0.06)


# --- real data ------------------------------------------------------------------------------------------------------------------------


def test_bodies_of_a_real_medulla_become_interior_and_boundary(shared_data, nnunet_folders):
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    source = shared_data / "em_fib25_medulla"
    name = "fib25_z000-149.tif"
    assert convert("--image", f"medulla={source}/images/{name}", "--instances", source / "labels_bodies" / name, "--spacing",
                   "0.01,0.01,0.01", "--boundary-width", "1", "--case-size", "75,250,250", "--keep-instances") == 0
    folder, description = dataset_of(nnunet_folders)
    verify_dataset_integrity(str(folder), num_processes=1)
    image, ids, label = (np.concatenate([tifffile.imread(path) for path in sorted((folder / part).glob("*.tif"))])
                         for part in ("imagesTr", "instancesTr", "labelsTr"))
    np.testing.assert_array_equal(ids, tifffile.imread(source / "labels_bodies" / name))
    # the membranes that lie between bodies are darker than the bodies
    assert image[label == INTERIOR].mean() - image[label == BOUNDARY].mean() > 15
    components, count = ndimage.label(label == INTERIOR)
    lowest, highest = (function(ids, components, range(1, count + 1)) for function in (ndimage.minimum, ndimage.maximum))
    assert (lowest == highest).all() and count >= len(np.unique(ids)) - 1
    assert sum(case["label_voxels"]["boundary"] for case in description["provenance"]["cases"].values()) == (label == BOUNDARY).sum()
