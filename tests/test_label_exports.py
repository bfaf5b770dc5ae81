"""A prediction in other programs' formats, and its preview."""

from __future__ import annotations

import json
import os

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from nnunet_neuro.predict import exports, preview
from nnunet_neuro.predict.exports import export
from nnunet_neuro.predict.pyramid import build_pyramid
from nnunet_neuro.predict.store import FurtherArray, LabelStore, StoreLayout
from nnunet_neuro.volumes import open_volume

SHAPE = (40, 50, 35)
SPACING = (5.0, 1.625, 0.3)
ALL = (slice(None),) * 3
NAMES = {"tiff-slices": "slices", "tiff": "labels.tif", "nifti": "labels.nii.gz", "precomputed": "precomputed"}


def make_store(folder, dtype="uint8", **settings) -> tuple[LabelStore, np.ndarray]:
    layout = StoreLayout(SHAPE, dtype, **{"spacing": SPACING, "chunk": (16, 16, 16), "classes": {"background": 0, "axon": 1, "soma": 2},
                                          **settings})
    labels = np.random.default_rng(0).integers(0, 3, SHAPE).astype(dtype)
    store = LabelStore.create(folder / "brain.zarr", layout)
    store.write(ALL, labels)
    return store, labels


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint64"])
@pytest.mark.parametrize("kind", NAMES)
def test_every_format_gives_the_voxels_back(tmp_path, kind, dtype):
    if kind == "precomputed":
        pytest.importorskip("tensorstore")
    store, labels = make_store(tmp_path, dtype)
    volume = open_volume(export(store, tmp_path / NAMES[kind], kind, progress=False))
    assert np.array_equal(volume.read(), labels) and volume.dtype.kind == "u"
    if kind == "tiff-slices":  # slices have no place for a voxel size
        assert volume.spacing is None
    else:
        in_micrometres = np.array(volume.spacing) * (1000 if kind == "nifti" else 1)
        assert in_micrometres == pytest.approx(SPACING, rel=1e-6)
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".partial")]


@pytest.mark.parametrize("kind", NAMES)
def test_slabs_do_not_change_a_byte(tmp_path, kind, monkeypatch):
    if kind == "precomputed":
        pytest.importorskip("tensorstore")
    store, _ = make_store(tmp_path)
    name = NAMES[kind]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    export(store, tmp_path / "a" / name, kind, progress=False)
    monkeypatch.setattr(exports, "_SLAB_BYTES", 3 * SHAPE[1] * SHAPE[2])
    monkeypatch.setattr("nnunet_neuro.predict.precomputed._BLOCK", 64)
    export(store, tmp_path / "b" / name, kind, progress=False)
    found = [{str(file.relative_to(tmp_path / side)): file.read_bytes() for file in (tmp_path / side).rglob("*") if file.is_file()}
             for side in "ab"]
    assert found[0].keys() == found[1].keys()
    if kind == "tiff":  # the OME description holds a random identifier
        assert np.array_equal(tifffile.imread(tmp_path / "a" / name), tifffile.imread(tmp_path / "b" / name))
    else:
        assert found[0] == found[1]


def test_slices_are_named_as_dlmbmap_names_them(tmp_path):
    store, labels = make_store(tmp_path)
    folder = export(store, tmp_path / "slices", "tiff-slices", progress=False)
    assert sorted(os.listdir(folder)) == [f"{number:04d}.tiff" for number in range(SHAPE[0])]
    assert np.array_equal(tifffile.imread(folder / "0007.tiff"), labels[7])


def test_more_than_ten_thousand_slices_sort_by_name(tmp_path):
    store = LabelStore.create(tmp_path / "x.zarr", StoreLayout((10_001, 1, 1), chunk=(10_001, 1, 1)))
    store.write(ALL, np.arange(10_001).reshape(-1, 1, 1).astype(np.uint8))
    names = sorted(os.listdir(export(store, tmp_path / "slices", "tiff-slices", progress=False)))
    assert names[0] == "00000.tiff" and names[-1] == "10000.tiff" and len(names) == 10_001


def test_a_channel_of_the_probabilities_is_exported(tmp_path):
    store, _ = make_store(tmp_path, further=(FurtherArray("probabilities", channels=("background", "axon")),))
    shares = np.random.default_rng(1).random((2, *SHAPE))
    store.write(ALL, shares, "probabilities")
    folder = export(store, tmp_path / "slices", "tiff-slices", name="probabilities", channel=1, progress=False)
    assert np.array_equal(open_volume(folder).read(), np.rint(shares[1] * 255).astype(np.uint8))


def test_nnunet_reads_the_tiff_with_its_voxel_size(tmp_path):
    from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

    store, labels = make_store(tmp_path)
    file = export(store, tmp_path / "case.tif", "tiff", progress=False)
    seg, properties = Tiff3DIO().read_seg(str(file))
    assert np.array_equal(seg[0], labels) and properties["spacing"] == list(SPACING)


@pytest.mark.parametrize("unit", ["micrometer", "millimeter"])
def test_the_tiff_states_its_voxel_size_itself(tmp_path, unit):
    store, _ = make_store(tmp_path, unit=unit)
    file = export(store, tmp_path / "case.tif", "tiff", progress=False)
    (tmp_path / "case.json").unlink()
    factor = 1 if unit == "micrometer" else 1000
    assert open_volume(file).spacing == pytest.approx([size * factor for size in SPACING])


def test_a_large_tiff_is_a_bigtiff(tmp_path, monkeypatch):
    monkeypatch.setattr(exports, "_CLASSIC_TIFF", 1000)
    store, labels = make_store(tmp_path)
    file = export(store, tmp_path / "case.tif", "tiff", progress=False)
    with tifffile.TiffFile(file) as tif:
        assert tif.is_bigtiff and len(tif.pages) == SHAPE[0]
    assert np.array_equal(open_volume(file).read(), labels)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_nifti_keeps_the_affine_of_the_input(tmp_path, ending):
    turned = np.array([[0, -2.0, 0, 7], [1.5, 0, 0, -3], [0, 0, 3.0, 11], [0, 0, 0, 1]])
    store, labels = make_store(tmp_path, spacing=(3.0, 2.0, 1.5), unit="millimeter")
    file = export(store, tmp_path / f"case{ending}", "nifti", affine=turned, progress=False)
    image = nibabel.load(file)
    assert np.allclose(image.affine, turned) and np.allclose(image.get_qform(), turned, atol=1e-5) and image.header["sform_code"] == 1
    assert np.array_equal(np.asarray(image.dataobj), labels.transpose(2, 1, 0)) and image.get_data_dtype() == np.uint8
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(file))), labels)
    assert sitk.ReadImage(str(file)).GetSpacing() == pytest.approx((1.5, 2.0, 3.0))


def test_nifti_longer_than_its_first_version_allows(tmp_path):
    store = LabelStore.create(tmp_path / "x.zarr", StoreLayout((1, 1, 33_000), chunk=(1, 1, 33_000)))
    labels = (np.arange(33_000) % 5).astype(np.uint8).reshape(1, 1, -1)
    store.write(ALL, labels)
    file = export(store, tmp_path / "x.nii", "nifti", progress=False)
    assert np.array_equal(open_volume(file).read(), labels) and isinstance(nibabel.load(file), nibabel.Nifti2Image)


def test_precomputed_has_every_level_and_the_names_of_the_classes(tmp_path):
    pytest.importorskip("tensorstore")
    store, _ = make_store(tmp_path)
    levels = build_pyramid(store, progress=False)
    folder = export(store, tmp_path / "out", "precomputed", progress=False)
    info = json.loads((folder / "info").read_text())
    assert info["type"] == "segmentation" and len(info["scales"]) == levels > 1
    assert info["scales"][0]["resolution"] == [300, 1625, 5000] and info["scales"][0]["size"] == list(SHAPE[::-1])
    names = json.loads((folder / info["segment_properties"] / "info").read_text())["inline"]
    assert names["ids"] == ["1", "2"] and names["properties"][0]["values"] == ["axon", "soma"]


@pytest.mark.parametrize("kind", ["tiff-slices", "tiff", "nifti"])
def test_an_interrupted_export_leaves_nothing(tmp_path, kind, monkeypatch):
    store, labels = make_store(tmp_path)
    planes = exports._planes

    def interrupted(*arguments):
        for number, plane in enumerate(planes(*arguments)):
            if number == 3:
                raise KeyboardInterrupt
            yield plane

    monkeypatch.setattr(exports, "_planes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(store, tmp_path / NAMES[kind], kind, progress=False)
    assert os.listdir(tmp_path) == ["brain.zarr"]


def test_what_a_killed_export_left_is_removed_by_the_next(tmp_path):
    store, _ = make_store(tmp_path)
    (tmp_path / ".slices.abc.partial").mkdir()
    export(store, tmp_path / "slices", "tiff-slices", progress=False)
    assert sorted(os.listdir(tmp_path)) == ["brain.zarr", "slices"]


def test_bad_requests_end_in_one_sentence(tmp_path):
    store, _ = make_store(tmp_path)
    with pytest.raises(ValueError, match="'png' is no format of an export; expected one of tiff-slices, tiff"):
        export(store, tmp_path / "x", "png", progress=False)
    (tmp_path / "there.tif").write_text("mine")
    with pytest.raises(FileExistsError, match="there.tif exists already"):
        export(store, tmp_path / "there.tif", "tiff", progress=False)
    assert (tmp_path / "there.tif").read_text() == "mine"
    (store.path / "0" / "0" / "0" / "0").unlink()
    with pytest.raises(ValueError, match="not complete; run nnneuro_predict once more"):
        export(store, tmp_path / "y.tif", "tiff", progress=False)
    assert not (tmp_path / "y.tif").exists()


def image_of(tmp_path, labels: np.ndarray):
    """An image that is bright where the labels are, as a TIFF."""
    bright = labels.astype(np.uint16) * 400 + np.random.default_rng(2).integers(0, 50, labels.shape, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "image.tif", bright, photometric="minisblack", metadata={"axes": "ZYX"})
    return open_volume(tmp_path / "image.tif")


def test_preview_shows_the_labels_in_their_colours(tmp_path):
    from matplotlib.colors import to_rgb
    from PIL import Image

    from nnunet_neuro.colours import class_colour

    store, labels = make_store(tmp_path)
    labels[:] = 0
    labels[:, 10:20, 10:20] = 2
    store.write(ALL, labels)
    image = image_of(tmp_path, labels)
    for _ in range(2):  # the second replaces the first
        picture = np.asarray(Image.open(preview.write_preview(image, store, tmp_path / "p.png", progress=False)).convert("RGB"), int)
    colours = [np.rint(np.multiply(to_rgb(class_colour(index)), 255)) for index in range(2)]
    shown = [int((np.abs(picture - colour).max(axis=-1) <= 2).sum()) for colour in colours]
    # soma fills a panel's square; axon, of which there is none, stands in the legend only
    assert shown[1] > 5 * shown[0] > 0


def test_preview_shows_what_belongs_to_an_object_where_there_are_instances(tmp_path):
    from PIL import Image

    store, labels = make_store(tmp_path)
    labels[:] = 0
    labels[:, 4:8, 4:8] = labels[:, 16:20, 16:20] = 1
    store.write(ALL, labels)
    image = image_of(tmp_path, labels)
    before = np.asarray(Image.open(preview.write_preview(image, store, tmp_path / "p.png", progress=False)))
    store = store.add(FurtherArray("instances", "uint64", labels=True))
    objects = np.zeros(labels.shape, np.uint64)
    objects[:, 4:8, 4:8] = 7  # the other one was too small
    store.write(ALL, objects, name="instances")
    after = np.asarray(Image.open(preview.write_preview(image, store, tmp_path / "p.png", progress=False)))
    assert (before != after).any()
    np.testing.assert_array_equal(preview._coarse_labels(store), np.where(objects > 0, 1, 0))


@pytest.mark.parametrize("band", [1, 10**9])
@pytest.mark.parametrize("most", [(7, 11, 13), (1000, 1000, 1000), (1, 1, 1)])
def test_sampled_image_is_every_nth_voxel_whatever_the_bands(tmp_path, monkeypatch, most, band):
    monkeypatch.setattr(preview, "_BAND_BYTES", band)
    image = image_of(tmp_path, np.random.default_rng(0).integers(0, 3, SHAPE))
    steps = [-(-length // longest) for length, longest in zip(SHAPE, most)]
    kept = preview.sampled(image, most, progress=False)
    assert all(length <= longest for length, longest in zip(kept.shape, most))
    assert np.array_equal(kept, image.read()[::steps[0], ::steps[1], ::steps[2]])


def test_preview_of_another_image_is_refused(tmp_path):
    store, _ = make_store(tmp_path)
    other = image_of(tmp_path, np.zeros((4, 5, 6), int))
    with pytest.raises(ValueError, match=r"has shape \(4, 5, 6\), but the prediction"):
        preview.write_preview(other, store, tmp_path / "p.png", progress=False)
