"""Opening volumes: every format gives the same voxels, region by region, with its voxel size."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_neuro.volumes import derived, empty_label, open_channels, open_slices, open_volume
from nnunet_neuro.volumes.volume import Volume, describe_region

SHAPE = (7, 12, 10)
NANOMETRES = (30.0, 6.0, 6.5)
MICROMETRES = (0.03, 0.006, 0.0065)
needs_zarr_3 = pytest.mark.skipif(sys.version_info < (3, 11), reason="zarr 3 needs Python 3.11")


def voxels(dtype=np.uint16, shape=SHAPE) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 250, shape).astype(dtype)


# --- one writer per format: (folder, array) -> address ---------------------------------------------------------------------------------


def plain_tiff(folder: Path, array: np.ndarray) -> Path:
    tifffile.imwrite(folder / "v.tif", array, photometric="minisblack")
    return folder / "v.tif"


def compressed_tiff(folder: Path, array: np.ndarray) -> Path:
    tifffile.imwrite(folder / "v.tif", array, photometric="minisblack", compression="zlib", tile=(16, 16))
    return folder / "v.tif"


def imagej_tiff(folder: Path, array: np.ndarray) -> Path:
    tifffile.imwrite(folder / "v.tif", array, imagej=True, resolution=(1 / 0.0065, 1 / 0.006),
                     metadata={"axes": "ZYX", "spacing": 0.03, "unit": "um"})
    return folder / "v.tif"


def ome_tiff(folder: Path, array: np.ndarray) -> Path:
    tifffile.imwrite(folder / "v.ome.tif", array, metadata={"axes": "ZYX", **{f"PhysicalSize{axis}": size for axis, size in
                                                            zip("ZYX", NANOMETRES)}, **{f"PhysicalSize{axis}Unit": "nm" for axis in "ZYX"}})
    return folder / "v.ome.tif"


def slice_tiffs(folder: Path, array: np.ndarray) -> Path:
    for number, plane in enumerate(array):
        tifffile.imwrite(folder / f"s{number + 9998}.tif", plane)
    return folder


def slice_pngs(folder: Path, array: np.ndarray) -> Path:
    from PIL import Image

    for number, plane in enumerate(array):
        Image.fromarray(plane).save(folder / f"im{number:04d}.png")
    return folder


def npy(folder: Path, array: np.ndarray) -> Path:
    np.save(folder / "v.npy", array)
    return folder / "v.npy"


def nrrd(folder: Path, array: np.ndarray) -> Path:
    import SimpleITK as sitk

    sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / "v.nrrd"), useCompression=True)
    return folder / "v.nrrd"


def nifti(folder: Path, array: np.ndarray) -> Path:
    import nibabel

    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), np.diag([1.0, 2.0, 3.0, 1.0])), folder / "v.nii.gz")
    return folder / "v.nii.gz"


def hdf5(folder: Path, array: np.ndarray) -> Path:
    import h5py

    with h5py.File(folder / "v.h5", "w") as file:
        file.create_dataset("volumes/raw", data=array, chunks=(4, 8, 8)).attrs["resolution"] = NANOMETRES
        file.create_dataset("table", data=np.arange(5))
    return folder / "v.h5"


def zarr_array(version: int, **options):
    def write(folder: Path, array: np.ndarray) -> Path:
        import zarr

        stored = zarr.create_array(str(folder / "v.zarr"), shape=array.shape, chunks=(4, 8, 8), dtype=array.dtype, zarr_format=version,
                                   config={"write_empty_chunks": True}, **options)
        stored[:] = array
        stored.attrs["resolution"] = list(NANOMETRES)
        return folder / "v.zarr"

    return write


def ome_zarr(version: int, axes: str = "zyx"):
    def write(folder: Path, array: np.ndarray) -> Path:
        import zarr

        group = zarr.open_group(str(folder / "v.ome.zarr"), mode="w", zarr_format=version)
        lengths = dict(zip("zyx", array.shape), t=1, c=1)
        for level in range(2):
            step = 2**level
            stored = group.create_array(str(level), shape=[-(-lengths[axis] // step) if axis in "zyx" else 1 for axis in axes],
                                        chunks=[4] * len(axes), dtype=array.dtype, config={"write_empty_chunks": True})
            stored[:] = array[::step, ::step, ::step].reshape(stored.shape)
        units = [{"name": axis, "type": "space", "unit": "nanometer"} if axis in "zyx" else {"name": axis} for axis in axes]
        scale = dict(zip("zyx", NANOMETRES))
        datasets = [{"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": [
            scale.get(axis, 1.0) * (2**level if axis in "zyx" else 1) for axis in axes]}]} for level in range(2)]
        multiscales = [{"version": "0.4", "axes": units, "datasets": datasets}]
        group.attrs.update({"multiscales": multiscales} if version == 2 else {"ome": {"version": "0.5", "multiscales": multiscales}})
        return folder / "v.ome.zarr"

    return write


def tensorstore_volume(driver: str):
    def write(folder: Path, array: np.ndarray) -> Path:
        tensorstore = pytest.importorskip("tensorstore")
        z, y, x = array.shape
        if driver == "n5":
            metadata = {"dimensions": [x, y, z], "blockSize": [4, 4, 4], "dataType": str(array.dtype), "compression": {"type": "gzip"}}
            spec = {"driver": "n5", "metadata": metadata}
        else:
            spec = {"driver": driver, "multiscale_metadata": {"type": "image", "data_type": str(array.dtype), "num_channels": 1},
                    "scale_metadata": {"size": [x, y, z], "resolution": NANOMETRES[::-1], "encoding": "raw", "chunk_size": [4, 4, 4],
                                       "voxel_offset": [100, 200, 300]}}
        stored = tensorstore.open({**spec, "kvstore": {"driver": "file", "path": str(folder / "v")}}, create=True).result()
        stored[...] = array.transpose(2, 1, 0).reshape(stored.shape)
        if driver == "n5":
            file = folder / "v" / "attributes.json"
            file.write_text(json.dumps({**json.loads(file.read_text()), "pixelResolution": {"dimensions": NANOMETRES[::-1], "unit": "nm"}}))
        return folder / "v"

    return write


FORMATS = {
    "plain TIFF": (plain_tiff, None),
    "compressed TIFF": (compressed_tiff, None),
    "ImageJ TIFF": (imagej_tiff, MICROMETRES),
    "OME-TIFF": (ome_tiff, MICROMETRES),
    "slice TIFFs": (slice_tiffs, None),
    "slice PNGs": (slice_pngs, None),
    "npy": (npy, None),
    "NRRD": (nrrd, (1.0, 1.0, 1.0)),
    "NIfTI": (nifti, (3.0, 2.0, 1.0)),
    "HDF5": (hdf5, MICROMETRES),
    "N5": (tensorstore_volume("n5"), MICROMETRES),
    "precomputed": (tensorstore_volume("neuroglancer_precomputed"), MICROMETRES),
    "Zarr v2": (zarr_array(2), MICROMETRES),
    "Zarr v3": (zarr_array(3), MICROMETRES),
    "sharded Zarr v3": (zarr_array(3, shards=(4, 16, 16)), MICROMETRES),
    "OME-Zarr 0.4": (ome_zarr(2, "tczyx"), MICROMETRES),
    "OME-Zarr 0.5": (ome_zarr(3), MICROMETRES),
}
if sys.version_info < (3, 11):
    FORMATS = {name: entry for name, entry in FORMATS.items() if "Zarr" not in name}


@pytest.fixture(params=FORMATS)
def written(request, tmp_path) -> tuple[Volume, np.ndarray, tuple[float, ...] | None]:
    """A volume of each format with the voxels and the voxel size that went into it."""
    write, spacing = FORMATS[request.param]
    array = voxels()
    return open_volume(write(tmp_path, array)), array, spacing


def test_header_and_voxels(written):
    volume, array, spacing = written
    assert volume.shape == array.shape and volume.dtype == array.dtype
    assert volume.spacing == pytest.approx(spacing, rel=1e-6) if spacing else volume.spacing is None
    np.testing.assert_array_equal(volume.read(), array)


def test_regions_crops_and_planes(written):
    volume, array, _ = written
    region = (slice(2, 6), slice(3, 12), slice(0, 9))
    np.testing.assert_array_equal(volume.read(region), array[region])
    crop = volume.crop(region)
    assert crop.shape == (4, 9, 9)
    np.testing.assert_array_equal(crop.read(), array[region])
    inner = (slice(1, 2), slice(0, 3), slice(4, 9))
    np.testing.assert_array_equal(crop.crop(inner).read(), array[region][inner])
    plane = crop.plane(3)
    assert plane.shape == (9, 9) and (plane.spacing is None or len(plane.spacing) == 2)
    np.testing.assert_array_equal(plane.read(), array[5, 3:12, 0:9])
    np.testing.assert_array_equal(plane.crop((slice(1, 4), slice(2, 3))).read(), array[5, 4:7, 2:3])


def test_workers_can_be_sent_volumes(written):
    volume, array, _ = written
    again = pickle.loads(pickle.dumps(derived(volume.crop((slice(1, 3), slice(0, 4), slice(2, 9))), brighter, np.uint32)))
    np.testing.assert_array_equal(again.read(), array[1:3, 0:4, 2:9].astype(np.uint32) + 1)


def test_sources_are_files_and_fewer_for_a_part(written):
    volume, array, _ = written
    whole, part = volume.sources(), volume.plane(0).sources()
    assert {source.name for source in part} <= {source.name for source in whole} or part[0].file is None
    assert all(source.file is None or source.file.is_file() for source in whole)


def test_leaving_the_volume_is_an_error(written):
    volume, *_ = written
    for z in (slice(0, 8), slice(3, 3), slice(-1, 3)):
        with pytest.raises(ValueError, match="does not lie in"):
            volume.read((z, slice(0, 2), slice(0, 2)))


def brighter(base: Volume, region) -> np.ndarray:
    return base.read(region).astype(np.uint32) + 1


def threshold(base: Volume, region) -> np.ndarray:
    return (base.read(region) > 100).astype(np.uint8)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6)), min_size=3, max_size=3), st.integers(0, 4))
def test_a_crop_of_a_derived_volume_is_derived_from_the_crop(bounds, index):
    array = voxels()
    base = Volume("made", SHAPE, array.dtype, None, reader=lambda path, region: array[region])
    region = tuple(slice(start, min(start + length, longest)) for (start, length), longest in zip(bounds, SHAPE))
    expected = (array[region] > 100).astype(np.uint8)
    one, other = derived(base, threshold, np.uint8).crop(region), derived(base.crop(region), threshold, np.uint8)
    np.testing.assert_array_equal(one.read(), expected)
    np.testing.assert_array_equal(other.read(), expected)
    assert one.place() == other.place() == describe_region(region)
    plane = min(index, expected.shape[0] - 1)
    np.testing.assert_array_equal(one.plane(plane).read(), expected[plane])
    assert not empty_label(one).read().any() and empty_label(one).shape == expected.shape


def test_affine_of_a_crop_keeps_the_world(tmp_path):
    import nibabel

    affine = np.array([[0.0, -2.0, 0.0, 10.0], [-1.5, 0.0, 0.0, -20.0], [0.0, 0.0, 3.0, 5.0], [0.0, 0.0, 0.0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(voxels().transpose(2, 1, 0), affine), tmp_path / "v.nii")
    crop = open_volume(tmp_path / "v.nii").crop((slice(1, 4), slice(2, 6), slice(5, 9))).crop((slice(1, 2), slice(1, 3), slice(0, 2)))
    np.testing.assert_allclose(crop.affine @ [0, 0, 0, 1], affine @ [5, 3, 2, 1])


# --- channels ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", ["ZCYX", "CZYX"])
def test_channels_of_a_tiff(tmp_path, axes):
    array = voxels(shape=(2, *SHAPE))
    stored = array if axes == "CZYX" else array.transpose(1, 0, 2, 3)
    tifffile.imwrite(tmp_path / "v.ome.tif", stored, metadata={"axes": axes}, photometric="minisblack")
    channels = open_channels(tmp_path / "v.ome.tif")
    assert [channel.shape for channel in channels] == [SHAPE, SHAPE]
    for channel, expected in zip(channels, array):
        np.testing.assert_array_equal(channel.read(), expected)
        np.testing.assert_array_equal(channel.plane(3).read(), expected[3])
    with pytest.raises(ValueError, match="2 channels"):
        open_volume(tmp_path / "v.ome.tif")


def test_channels_of_an_imagej_hyperstack(tmp_path):
    array = voxels(shape=(*SHAPE[:1], 3, *SHAPE[1:]))
    tifffile.imwrite(tmp_path / "v.tif", array, imagej=True, metadata={"axes": "ZCYX"})
    for number, channel in enumerate(open_channels(tmp_path / "v.tif")):
        np.testing.assert_array_equal(channel.read((slice(2, 4), slice(0, 12), slice(1, 3))), array[2:4, number, :, 1:3])


@pytest.mark.parametrize("write", [npy, hdf5])
def test_leading_axis_is_channels(tmp_path, write):
    array = voxels(shape=(2, *SHAPE))
    if write is hdf5:
        import h5py

        with h5py.File(tmp_path / "v.h5", "w") as file:
            file["raw"] = array
        address = tmp_path / "v.h5/raw"
    else:
        address = write(tmp_path, array)
    for channel, expected in zip(open_channels(address), array, strict=True):
        np.testing.assert_array_equal(channel.read(), expected)


@needs_zarr_3
def test_channels_and_labels_of_an_ome_zarr(tmp_path):
    import zarr

    address = ome_zarr(3, "czyx")(tmp_path, voxels())
    group = zarr.open_group(str(address), mode="r+")
    labels = group.create_group("labels/cells")
    labels.create_array("0", data=(voxels() > 100).astype(np.uint8), chunks=(4, 4, 4), config={"write_empty_chunks": True})
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 2, 3]}]}
    labels.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [level]}]}
    label = open_volume(address / "labels/cells")
    np.testing.assert_array_equal(label.read(), voxels() > 100)
    assert label.spacing == (1, 2, 3)
    coarse = open_volume(address / "1")
    assert coarse.spacing == pytest.approx([2 * size for size in MICROMETRES]) and coarse.shape == (4, 6, 5)


def test_missing_chunks_can_be_called_empty(tmp_path):
    if sys.version_info < (3, 11):
        pytest.skip("zarr 3 needs Python 3.11")
    address = zarr_array(3)(tmp_path, voxels())
    (address / "c/1/0/1").unlink()
    with pytest.raises(ValueError, match="lacks 1 of 8 chunks, the first of them c/1/0/1"):
        open_volume(address).read()
    np.testing.assert_array_equal(open_volume(address).read((slice(0, 4), slice(0, 12), slice(0, 10))), voxels()[:4])
    filled = open_volume(address, missing_are_zero=True).read()
    assert not filled[4:, :8, 8:].any() and (filled[:4] == voxels()[:4]).all()


def test_ids_packed_in_colours(tmp_path):
    from PIL import Image

    ids = np.array([[0, 1, 65536], [70000, 16777215, 258]], np.uint32)
    packed = np.stack([ids >> 16, (ids >> 8) & 255, ids & 255], axis=-1).astype(np.uint8)
    Image.fromarray(packed).save(tmp_path / "s0.png")
    np.testing.assert_array_equal(open_slices(tmp_path, rgb_ids=True).read()[0], ids)
    with pytest.raises(ValueError, match="colour image"):
        open_slices(tmp_path)


def test_ids_of_64_bits_survive(tmp_path):
    ids = voxels(np.uint64) + np.uint64(2**40)
    for write in (npy, hdf5, plain_tiff, *([zarr_array(3)] if sys.version_info >= (3, 11) else [])):
        folder = tmp_path / write.__qualname__.replace("<locals>", "").replace(".", "")
        folder.mkdir()
        np.testing.assert_array_equal(open_volume(write(folder, ids)).read(), ids)


def test_large_sections_of_electron_microscopy_are_no_attack(tmp_path, monkeypatch):
    from PIL import Image

    Image.fromarray(np.full((90, 80), 7, np.uint8)).save(tmp_path / "s0.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # twice as much is an error
    assert (open_slices(tmp_path).read() == 7).all()
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_the_sidecar_of_another_program_is_no_error(tmp_path):
    address = imagej_tiff(tmp_path, voxels())
    address.with_suffix(".json").write_text('{"PixelSize": [0.1, 0.1]}')
    assert open_volume(address).spacing == pytest.approx(MICROMETRES)
