"""Damaged, misleading and unfit NIfTI files: each is refused with a sentence that names it, and none is read as zeros."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from nnunet_neuro.commands.convert import main
from nnunet_neuro.volumes import open_channels, open_volume

SHAPE = (9, 8, 7)  # x, y, z
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
# places in a NIfTI-1 header
SIZEOF_HDR, DIM, DATATYPE, VOX_OFFSET, SCL_SLOPE, MAGIC = 0, 40, 70, 108, 112, 344
PIXDIM, QFORM_CODE, SFORM_CODE, SROW_X, QUATERN_B = 76, 252, 254, 280, 256


def image_voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 1000, SHAPE).astype(np.int16)


def label_voxels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.uint8)


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def plain(array: np.ndarray | None = None) -> bytes:
    """The bytes of a good file."""
    return nibabel.Nifti1Image(image_voxels() if array is None else array, AFFINE).to_bytes()


def patched(place: int, kind: str, *values, array: np.ndarray | None = None) -> bytes:
    """The bytes of a good file with other numbers in its header."""
    content = bytearray(plain(array))
    struct.pack_into(f"<{kind}", content, place, *values)
    return bytes(content)


def packed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1:]


def with_array(array: np.ndarray) -> bytes:
    return nibabel.Nifti1Image(array, AFFINE).to_bytes()


def colour() -> bytes:
    array = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    return nibabel.Nifti1Image(array, AFFINE).to_bytes()


def sheared() -> bytes:
    affine = AFFINE.copy()
    affine[0, 1] = 0.2
    return nibabel.Nifti1Image(image_voxels(), affine).to_bytes()


def holding(value: float) -> bytes:
    array = image_voxels().astype(np.float32)
    array[3, 3, 3] = value
    return with_array(array)


PACKED = packed(plain())
VOXEL_BYTES = int(np.prod(SHAPE)) * 2

# name: (file name, bytes, words of the sentence)
BAD_IMAGES: dict[str, tuple[str, bytes, str]] = {
    "voxels cut": ("v.nii", plain()[:-100], "truncated"),
    "voxels cut by one byte": ("v.nii", plain()[:-1], "truncated"),
    "gz cut in the middle": ("v.nii.gz", PACKED[: len(PACKED) // 2], "no whole NIfTI"),
    "gz cut within the header": ("v.nii.gz", PACKED[:60], "no whole NIfTI"),
    "gz cut before the trailer": ("v.nii.gz", PACKED[:-8], "no whole NIfTI"),
    "gz cut in the trailer": ("v.nii.gz", PACKED[:-5], "no whole NIfTI"),
    "gz with a wrong checksum": ("v.nii.gz", flipped(PACKED, len(PACKED) - 8), "CRC"),
    "gz with a wrong length": ("v.nii.gz", flipped(PACKED, len(PACKED) - 1), "length"),
    "gz with a damaged byte": ("v.nii.gz", flipped(PACKED, len(PACKED) // 2), "no whole NIfTI"),
    "gz of too few voxels": ("v.nii.gz", packed(plain()[:-100]), "no whole NIfTI"),
    "header only": ("v.nii", plain()[:352], "truncated"),
    "header only, gz": ("v.nii.gz", packed(plain()[:352]), "no whole NIfTI"),
    "half a header": ("v.nii", plain()[:200], "no whole NIfTI"),
    "empty file": ("v.nii", b"", "Empty file"),
    "empty gz file": ("v.nii.gz", b"", "Empty file"),
    "gz of nothing": ("v.nii.gz", packed(b""), "no whole NIfTI"),
    "not gz though named so": ("v.nii.gz", plain(), "no whole NIfTI"),
    "gz though not named so": ("v.nii", PACKED, "no whole NIfTI"),
    "a web page": ("v.nii.gz", b"<!DOCTYPE html><html>404</html>" * 20, "no whole NIfTI"),
    "wrong magic": ("v.nii", patched(MAGIC, "4s", b"xyz\0"), "no whole NIfTI"),
    "header of a pair": ("v.nii", patched(MAGIC, "4s", b"ni1\0"), "single file"),
    "wrong sizeof_hdr": ("v.nii", patched(SIZEOF_HDR, "i", 347), "header of size 347"),
    "a length of 0": ("v.nii", patched(DIM, "8h", 3, 9, 0, 7, 1, 1, 1, 1), "shape (9, 0, 7)"),
    "a negative length": ("v.nii", patched(DIM, "8h", 3, 9, -8, 7, 1, 1, 1, 1), "shape (9, -8, 7)"),
    "9 axes": ("v.nii", patched(DIM, "8h", 9, 9, 8, 7, 1, 1, 1, 1), "no whole NIfTI"),
    "no axes": ("v.nii", patched(DIM, "8h", 0, 9, 8, 7, 1, 1, 1, 1), "shape"),
    "two axes": ("v.nii", patched(DIM, "8h", 2, 72, 7, 1, 1, 1, 1, 1), "expected three axes"),
    "five axes": ("v.nii", with_array(np.zeros((3, 3, 3, 2, 2), np.int16)), "expected three axes"),
    "four axes": ("v.nii", with_array(np.zeros((3, 3, 3, 2), np.int16)), "2 channels"),
    "lengths beyond any file": ("v.nii.gz", packed(patched(DIM, "8h", 3, 30000, 30000, 30000, 1, 1, 1, 1)), "truncated"),
    "colour": ("v.nii", colour(), "colour"),
    "complex": ("v.nii", with_array(np.zeros(SHAPE, np.complex64)), "complex64"),
    "128-bit floats": ("v.nii", patched(DATATYPE, "h", 1536), "1536"),
    "unknown datatype": ("v.nii", patched(DATATYPE, "h", 999), "no whole NIfTI"),
    "voxels beyond the end": ("v.nii", patched(VOX_OFFSET, "f", 1e6), "truncated"),
    "voxels beyond the end, gz": ("v.nii.gz", packed(patched(VOX_OFFSET, "f", 1e5)), "no whole NIfTI"),
    "voxels within the header": ("v.nii", patched(VOX_OFFSET, "f", 100.0), "offset 100"),
    "voxels nowhere": ("v.nii", patched(VOX_OFFSET, "f", float("nan")), "no whole NIfTI"),
    "affine with NaN": ("v.nii", patched(SROW_X, "4f", 1, 0, float("nan"), 0), "NaN"),
    "affine with an axis of 0": ("v.nii", patched(SROW_X, "12f", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0), "voxel size of 1, 0, 1"),
    "sheared affine": ("v.nii", sheared(), "sheared"),
    "NaN voxels": ("v.nii", holding(np.nan), "NaN"),
    "infinite voxels": ("v.nii.gz", packed(holding(np.inf)), "infinite"),
}


def no_sform(place: int, kind: str, *values) -> bytes:
    content = bytearray(patched(place, kind, *values))
    struct.pack_into("<2h", content, QFORM_CODE, 1, 0)
    return bytes(content)


BAD_IMAGES["qform with a voxel size of 0"] = ("v.nii", no_sform(PIXDIM, "4f", 1, 1, 0, 2), "voxel size")
BAD_IMAGES["qform that is no rotation"] = ("v.nii", no_sform(QUATERN_B, "3f", 1, 1, 1), "no whole NIfTI")
# only a conversion sees that these do not fit
FITS_NO_IMAGE = {"NaN voxels", "infinite voxels"}


def refused(capsys, folder: Path) -> str:
    """Convert `folder`; gives the one sentence."""
    capsys.readouterr()
    raw = folder.parent / "raw"
    image = next(path.name for path in folder.glob("s1/v.*"))
    label = next(path.name for path in folder.glob("s1/label.*"))
    assert main(["thalamus", str(folder), "--layout", f"T1={{subject}}/{image}", "--mask", f"{{subject}}/{label}", "--labels", "1=a,2=b",
                 "--raw", str(raw), "-d", "900", "--name", "Bad", "--workers", "1"]) == 2
    said = capsys.readouterr()
    sentences = [line for line in said.err.replace("\r", "\n").splitlines() if line.startswith("nnneuro_convert: error:")]
    assert len(sentences) == 1 and "Traceback" not in said.err
    assert not list(raw.rglob("dataset.json")) and not list(raw.rglob("*_0000.nii.gz"))
    return sentences[0]


def test_the_good_file_is_read(tmp_path):
    for name, content in (("v.nii", plain()), ("v.nii.gz", PACKED)):
        (tmp_path / name).write_bytes(content)
        np.testing.assert_array_equal(open_volume(tmp_path / name).read(), image_voxels().T)


@pytest.mark.parametrize("name", [name for name in BAD_IMAGES if name not in FITS_NO_IMAGE])
def test_bad_file_is_refused_when_opened_or_read(tmp_path, name):
    file, content, words = BAD_IMAGES[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError) as caught:
        open_volume(tmp_path / file).read()
    assert words in str(caught.value) and str(tmp_path / file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_image_ends_a_conversion_in_one_sentence(tmp_path, capsys, name):
    file, content, _ = BAD_IMAGES[name]
    save(tmp_path / "in/s1/label.nii.gz", label_voxels())
    (tmp_path / "in/s1" / file).write_bytes(content)
    assert file in refused(capsys, tmp_path / "in")


@pytest.mark.parametrize("name", ["voxels cut", "gz cut in the middle", "gz cut in the trailer", "gz with a wrong checksum"])
def test_a_part_of_a_damaged_file_is_refused_too(tmp_path, name):
    file, content, _ = BAD_IMAGES[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match="copy it again"):
        open_volume(tmp_path / file).read((slice(0, 1), slice(0, 1), slice(0, 1)))


# --- labels --------------------------------------------------------------------------------------------------------------------------


def moved_label(path: Path) -> None:
    affine = AFFINE.copy()
    affine[0, 3] = 3
    save(path, label_voxels(), affine)


def turned_label(path: Path) -> None:
    save(path, label_voxels(), np.diag([-1.0, 1, 2, 1]))


def scaled_label(path: Path) -> None:
    path.write_bytes(patched(SCL_SLOPE, "2f", 0.25, 0, array=label_voxels()))


BAD_LABELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "elsewhere": (moved_label, "elsewhere in space"),
    "mirrored": (turned_label, "elsewhere in space"),
    "another shape": (lambda path: save(path, label_voxels()[:-1]), "has shape (7, 8, 8)"),
    "axes exchanged": (lambda path: save(path, label_voxels().transpose(1, 0, 2)), "has shape (7, 9, 8)"),
    "another voxel size": (lambda path: save(path, label_voxels(), np.diag([1.0, 1, 1, 1])), "voxel size"),
    "a scale of a quarter": (scaled_label, "0.25"),
    "probabilities": (lambda path: save(path, (label_voxels() * 0.3).astype(np.float32)), "0.3"),
    "NaN": (lambda path: save(path, np.where(label_voxels() > 1, np.nan, 0).astype(np.float32)), "nan"),
    "an unknown code": (lambda path: save(path, label_voxels() + np.uint8(7)), "the value 7"),
    "cut": (lambda path: path.write_bytes(plain(label_voxels())[:-3]), "truncated"),
}


@pytest.mark.parametrize("name", BAD_LABELS)
def test_bad_label_ends_a_conversion_in_one_sentence(tmp_path, capsys, name):
    write, words = BAD_LABELS[name]
    save(tmp_path / "in/s1/v.nii", image_voxels())
    write(tmp_path / "in/s1/label.nii")
    sentence = refused(capsys, tmp_path / "in")
    assert words in sentence and "label.nii" in sentence


def test_whole_codes_saved_as_floats_are_no_damage(tmp_path):
    save(tmp_path / "in/s1/v.nii", image_voxels())
    save(tmp_path / "in/s1/label.nii", label_voxels().astype(np.float32))
    assert main(["thalamus", str(tmp_path / "in"), "--layout", "T1={subject}/v.nii", "--mask", "{subject}/label.nii", "--labels", "1=a,2=b",
                 "--raw", str(tmp_path / "raw"), "-d", "900", "--name", "Float"]) == 0
    written = nibabel.load(tmp_path / "raw/Dataset900_Float/labelsTr/s1.nii.gz")
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(written.dataobj), label_voxels())


# --- any damage ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_any_damage_of_a_header_is_a_sentence_or_harmless(tmp_path, ending):
    generator = np.random.default_rng(0)
    refusals = 0
    for _ in range(300):
        content = bytearray(plain())
        for place in generator.integers(0, 352, generator.integers(1, 4)):
            content[place] = generator.integers(0, 256)
        path = tmp_path / f"v{ending}"
        path.write_bytes(packed(bytes(content)) if ending == ".nii.gz" else bytes(content))
        try:
            for volume in open_channels(path)[:3]:
                assert volume.read().shape == volume.shape
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refusals += 1
    assert refusals > 20


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_no_cut_is_read(tmp_path, ending):
    whole = PACKED if ending == ".nii.gz" else plain()
    for length in range(0, len(whole), 7):
        (tmp_path / f"v{ending}").write_bytes(whole[:length])
        with pytest.raises(ValueError):
            open_volume(tmp_path / f"v{ending}").read()
