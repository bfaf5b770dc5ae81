"""Labels that do not fit their image or their classes: each conversion ends in one sentence, and nothing looks whole."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.fake_sources.volumes import write_pair
from tests.test_volumes_converter import CLASSES, SPACING, convert, dataset_of, refused

SHAPE = (8, 12, 10)
GOOD = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
FOREGROUND = ("--variant", "foreground")

# writes the label of the second volume below the folder; gives its path from there
Writer = Callable[[Path], str]


def tiff(array: np.ndarray, **options) -> Writer:
    def write(folder: Path) -> str:
        tifffile.imwrite(folder / "bad.tif", array, **{"photometric": "minisblack", **options})
        return "bad.tif"

    return write


def npy(array: np.ndarray) -> Writer:
    def write(folder: Path) -> str:
        np.save(folder / "bad.npy", array)
        return "bad.npy"

    return write


def pngs(planes, skip: int | None = None) -> Writer:
    """A folder of slices, perhaps without one."""

    def write(folder: Path) -> str:
        (folder / "bad").mkdir()
        for number, plane in enumerate(planes):
            if number != skip:
                Image.fromarray(plane).save(folder / f"bad/{number:03d}.png")
        return "bad"

    return write


def indexed_colours(folder: Path) -> str:
    pngs(GOOD)(folder)
    for path in (folder / "bad").iterdir():
        Image.open(path).convert("P").save(path)
    return "bad"


def changed(write: Writer, change: Callable[[Path], object]) -> Writer:
    def make(folder: Path) -> str:
        name = write(folder)
        change(folder / name)
        return name

    return make


def spacing_file(text: str) -> Writer:
    return changed(tiff(GOOD), lambda path: path.with_suffix(".json").write_text(text))


def hdf5_never_written(folder: Path) -> str:
    import h5py

    with h5py.File(folder / "bad.h5", "w") as file:
        file.create_dataset("seg", shape=SHAPE, dtype=np.uint8)
    return "bad.h5/seg"


def zarr_with_a_hole(folder: Path) -> str:
    if sys.version_info < (3, 11):
        pytest.skip("zarr 3 needs Python 3.11")
    import zarr

    # zarr's default leaves out a chunk of zeros
    label = GOOD.copy()
    label[:4, :6, :5] = 0
    zarr.create_array(str(folder / "bad.zarr"), data=label, chunks=(4, 6, 5))
    return "bad.zarr"


def moved_nifti(folder: Path) -> str:
    import nibabel

    nibabel.save(nibabel.Nifti1Image(GOOD.transpose(2, 1, 0), np.diag([9.0, 9.0, 9.0, 1.0])), folder / "bad.nii.gz")
    return "bad.nii.gz"


def with_value(value: int, dtype: type) -> np.ndarray:
    label = GOOD.astype(dtype)
    label[3, 4, 5] = value
    return label


WITH_NAN = np.where(GOOD > 1, np.nan, GOOD).astype(np.float32)

# name: (writer, options of the command, words of the sentence)
BAD: dict[str, tuple[Writer, tuple[str, ...], str]] = {
    "fractions": (npy(GOOD / 2), CLASSES, "holds 0.5"),
    "fractions, other labels allowed": (npy(GOOD / 2), (*CLASSES, "--other-labels", "background"), "holds 0.5"),
    "NaN": (tiff(WITH_NAN), CLASSES, "holds nan"),
    "NaN, other labels allowed": (tiff(WITH_NAN), (*CLASSES, "--other-labels", "ignore"), "holds nan"),
    "infinite": (npy(np.where(GOOD > 1, np.inf, GOOD)), CLASSES, "holds inf"),
    "floats without a name": (npy(GOOD * 100.0), CLASSES, "the value 100"),
    "NaN in a probability map": (tiff(WITH_NAN), FOREGROUND, "NaN"),
    "complex": (npy(GOOD.astype(np.complex64)), CLASSES, "complex64"),
    "negative value": (tiff(with_value(-1, np.int16)), CLASSES, "the value -1 (1 voxels)"),
    "value without a name": (tiff(with_value(200, np.uint8)), CLASSES, "the value 200 (1 voxels)"),
    "value above 16 bits": (tiff(with_value(70000, np.uint32)), CLASSES, "the value 70000"),
    "value above 53 bits": (npy(with_value(2**53 + 1, np.uint64)), CLASSES, "the value 9007199254740993"),
    "value above 63 bits": (npy(with_value(2**64 - 1, np.uint64)), CLASSES, "the value 18446744073709551615"),
    "mask of 255": (npy(GOOD // 2 * np.uint8(255)), CLASSES, "the value 255"),
    "another depth": (tiff(GOOD[:5]), CLASSES, "has shape (5, 12, 10)"),
    "another height": (tiff(GOOD[:, :5]), CLASSES, "has shape (8, 5, 10)"),
    "axes exchanged": (npy(GOOD.transpose(0, 2, 1)), CLASSES, "has shape (8, 10, 12)"),
    "one plane": (npy(GOOD[0]), CLASSES, "bad.npy has shape"),
    "cut": (changed(tiff(GOOD), lambda path: path.write_bytes(path.read_bytes()[:-300])), CLASSES, "copy it again"),
    "empty": (changed(tiff(GOOD), lambda path: path.write_bytes(b"")), CLASSES, "not a TIFF file"),
    "colour": (tiff(np.stack([GOOD] * 3, axis=-1), photometric="rgb"), CLASSES, "colour image"),
    "colour slices": (pngs(np.stack([GOOD] * 3, axis=-1)), CLASSES, "colour image"),
    "indexed-colour slices": (indexed_colours, CLASSES, "indexed-colour"),
    "slices with a gap": (pngs(GOOD, skip=3), CLASSES, "without 3 (1 missing)"),
    "several channels": (npy(np.stack([GOOD] * 2)), CLASSES, "2 channels"),
    "time points": (tiff(np.stack([GOOD] * 2), imagej=True, metadata={"axes": "TZYX"}), CLASSES, "one time point"),
    "another voxel size": (spacing_file('{"spacing": [9, 9, 9]}'), CLASSES, "voxel size (9.0, 9.0, 9.0)"),
    "another voxel size in NIfTI": (moved_nifti, CLASSES, "voxel size (9.0, 9.0, 9.0)"),
    "impossible voxel size": (spacing_file('{"spacing": [0, 9, 9]}'), CLASSES, "bad.json"),
    "never written": (hdf5_never_written, CLASSES, "never written"),
    "chunk left out": (zarr_with_a_hole, CLASSES, "lacks 1 of 8 chunks"),
    "missing": (lambda folder: "bad.tif", CLASSES, "no file"),
    "a folder": (changed(lambda folder: "bad", lambda path: path.mkdir()), CLASSES, "no slice TIFF or PNG"),
    "of another kind": (changed(lambda folder: "bad.xlsx", lambda path: path.write_text("0,1")), CLASSES, "not a volume"),
}


def table_of(folder: Path, label: str) -> Path:
    """A good volume and one with the label."""
    write_pair(folder, "a")
    write_pair(folder, "b")
    (folder / "cases.csv").write_text(f"case,image,label\na,em/a.tif,seg/a.tif\nb,em/b.tif,{label}\n")
    return folder / "cases.csv"


@pytest.mark.parametrize("what", BAD)
def test_bad_label_ends_a_conversion_in_one_sentence(tmp_path, nnunet_folders, capsys, what):
    write, options, words = BAD[what]
    table = table_of(tmp_path, write(tmp_path))
    sentence = refused(capsys, "--table", table, *options, *SPACING)
    assert words in sentence and str(tmp_path / "bad") in sentence
    assert not list(nnunet_folders.raw.rglob("dataset.json")) and not list(nnunet_folders.raw.rglob("splits_final.json"))
    assert not list(nnunet_folders.raw.rglob("b_0000.tif")) and not list(nnunet_folders.raw.rglob("labelsTr/b.*"))


@pytest.mark.parametrize("what", ["value without a name", "NaN in a probability map", "chunk left out"])
def test_bad_label_ends_a_dry_run_too(tmp_path, nnunet_folders, capsys, what):
    write, options, words = BAD[what]
    assert words in refused(capsys, "--table", table_of(tmp_path, write(tmp_path)), *options, *SPACING, "--dry-run")
    assert not list(nnunet_folders.raw.iterdir())


# --- labels that look odd and are right --------------------------------------------------------------------------------------------------

ODD: dict[str, tuple[Writer, np.ndarray]] = {
    "whole floats": (tiff(GOOD.astype(np.float32)), GOOD),
    "boolean": (npy(GOOD > 0), GOOD > 0),
    "bilevel TIFF": (tiff(GOOD > 0), GOOD > 0),
    "64 bits": (npy(GOOD.astype(np.int64)), GOOD),
    "big-endian": (npy(GOOD.astype(">i4")), GOOD),
    "indexed colours of a TIFF": (tiff(GOOD, photometric="palette", colormap=np.zeros((3, 256), np.uint16)), GOOD),
    "nothing of the structure": (npy(np.zeros(SHAPE, np.uint8)), np.zeros(SHAPE)),
    "slices": (pngs(GOOD), GOOD),
}


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("ending", [".tif", ".nii.gz"])
def test_odd_label_arrives(tmp_path, nnunet_folders, what, ending):
    from nnunet_neuro.volumes import open_volume

    write, expected = ODD[what]
    assert convert("--table", table_of(tmp_path, write(tmp_path)), *CLASSES, *SPACING, "--file-ending", ending) == 0
    np.testing.assert_array_equal(open_volume(dataset_of(nnunet_folders)[0] / f"labelsTr/b{ending}").read(), expected)


def test_chunk_left_out_on_purpose_is_background(tmp_path, nnunet_folders):
    table = table_of(tmp_path, zarr_with_a_hole(tmp_path))
    assert convert("--table", table, *CLASSES, *SPACING, "--missing-chunks", "zero") == 0
    label = tifffile.imread(dataset_of(nnunet_folders)[0] / "labelsTr/b.tif")
    assert not label[:4, :6, :5].any()
    np.testing.assert_array_equal(label[4:], GOOD[4:])


def test_ids_above_53_bits_are_told_apart(tmp_path, nnunet_folders):
    """As floats both would be 2**53."""
    label = np.where(GOOD == 1, 2**53, np.where(GOOD == 2, 2**53 + 1, 0)).astype(np.uint64)
    table = table_of(tmp_path, npy(label)(tmp_path))
    assert convert("--table", table, "--labels", f"1=a,2=b,{2**53}=a,{2**53 + 1}=b", *SPACING) == 0
    np.testing.assert_array_equal(tifffile.imread(dataset_of(nnunet_folders)[0] / "labelsTr/b.tif"), GOOD)


def test_mended_label_completes_the_dataset(tmp_path, nnunet_folders, capsys):
    table = table_of(tmp_path, BAD["value without a name"][0](tmp_path))
    refused(capsys, "--table", table, *CLASSES, *SPACING)
    tiff(GOOD)(tmp_path)
    assert convert("--table", table, *CLASSES, *SPACING) == 0
    folder, description = dataset_of(nnunet_folders)
    assert description["numTraining"] == 2 and len(json.loads((folder / "splits_final.json").read_text())) == 2
