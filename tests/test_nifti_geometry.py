"""Where the voxels of a NIfTI lie in the world: kept through conversion, through nnU-Net, and back; and how its voxels are read.

"Kept" means that the affine's entries and the world positions of the eight corner voxels change by less than 1e-6 of the extent from the
first corner to the last (the file's 32-bit numbers are good to 6e-8).
"""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_neuro.commands.convert import main
from nnunet_neuro.raw_formats import write_nifti
from nnunet_neuro.volumes import open_channels, open_volume
from nnunet_neuro.volumes.nifti import open_nifti, orthogonal_axes

SHAPE = (5, 6, 7)  # x, y, z
SPACING = (0.7, 1.25, 2.6)
ORIGIN = (-91.375, 126.5, -72.125)
PERMUTATIONS = [(axes, signs) for axes in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)]
CORNERS = np.array(list(itertools.product(*[(0, length - 1) for length in SHAPE])))


def rotation(degrees: tuple[float, float, float]) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    return Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()


def affine_of(directions: np.ndarray, spacing=SPACING, origin=ORIGIN) -> np.ndarray:
    """(4, 4), of numbers that a header can hold."""
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = origin
    return affine.astype(np.float32).astype(float)


def orientations() -> dict[str, np.ndarray]:
    """All signed permutations of the axes, and oblique ones; some of them near half turns, where a quaternion is imprecise."""
    found = {}
    for axes, signs in PERMUTATIONS:
        directions = np.zeros((3, 3))
        directions[axes, range(3)] = signs
        found["".join("RAS"[axis] if sign > 0 else "LPI"[axis] for axis, sign in zip(axes, signs))] = affine_of(directions)
    for degrees in ((30, -20, 75), (179.9, 0, 0), (0, 179.99, 0.01), (1e-3, 0, 180), (-12, 170, 5)):
        for name, mirror in (("oblique", (1, 1, 1)), ("oblique-mirrored", (-1, 1, 1))):
            found[f"{name}-{'-'.join(str(part).replace('-', 'm').replace('.', 'p') for part in degrees)}"] = affine_of(
                rotation(degrees) @ np.diag(mirror))
    return found


def save(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def world(affine: np.ndarray) -> np.ndarray:
    return CORNERS @ affine[:3, :3].T + affine[:3, 3]


def assert_kept(after: np.ndarray, before: np.ndarray) -> None:
    extent = np.linalg.norm(world(before)[-1] - world(before)[0])
    assert np.abs(after - before).max() < 1e-6 * extent
    assert np.abs(world(after) - world(before)).max() < 1e-6 * extent


def voxels(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and label (x, y, z)."""
    generator = np.random.default_rng(seed)
    return generator.integers(-500, 500, SHAPE).astype(np.int16), generator.integers(0, 3, SHAPE).astype(np.uint8)


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    """One dataset of a case per orientation."""
    folder = tmp_path_factory.mktemp("orientations")
    for seed, (name, affine) in enumerate(orientations().items()):
        image, label = voxels(seed)
        save(folder / "source" / name / "image.nii", image, affine)
        save(folder / "source" / name / "label.nii.gz", label, affine)
    assert main(["thalamus", str(folder / "source"), "--layout", "T1={subject}/image.nii", "--mask", "{subject}/label.nii.gz", "--labels",
                 "1=left,2=right", "--raw", str(folder / "raw"), "-d", "900", "--name", "Turned"]) == 0
    return folder / "raw" / "Dataset900_Turned"


def test_there_are_48_permutations_and_as_many_names():
    names = [name for name in orientations() if not name.startswith("oblique")]
    assert len(names) == 48
    assert all("".join(nibabel.aff2axcodes(orientations()[name])) == name for name in names)


@pytest.mark.parametrize("seed, name", enumerate(orientations()), ids=str)
def test_voxel_to_world_is_kept_through_conversion(converted, seed, name):
    image, label = voxels(seed)
    for file, voxels_before in ((f"imagesTr/{name}_0000.nii.gz", image), (f"labelsTr/{name}.nii.gz", label)):
        after = nibabel.load(converted / file)
        assert_kept(after.affine, orientations()[name])
        assert after.header["sform_code"] > 0 and after.header["qform_code"] > 0
        np.testing.assert_array_equal(np.asarray(after.dataobj), voxels_before)


@pytest.mark.parametrize("seed, name", enumerate(orientations()), ids=str)
def test_voxel_to_world_is_kept_through_nnunet_reading_and_writing(converted, seed, name, tmp_path):
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    image, label = voxels(seed)
    array, properties = SimpleITKIO().read_images([str(converted / f"imagesTr/{name}_0000.nii.gz")])
    np.testing.assert_array_equal(array[0], image.T)
    np.testing.assert_allclose(properties["spacing"], SPACING[::-1], rtol=1e-6)
    SimpleITKIO().write_seg(label.T, str(tmp_path / "segmentation.nii.gz"), properties)
    after = nibabel.load(tmp_path / "segmentation.nii.gz")
    assert_kept(after.affine, orientations()[name])
    np.testing.assert_array_equal(np.asarray(after.dataobj), label)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(degrees=st.tuples(*[st.floats(-180, 180)] * 3), mirrored=st.booleans(), spacing=st.tuples(*[st.floats(0.05, 20)] * 3),
       origin=st.tuples(*[st.floats(-500, 500)] * 3))
def test_any_rotation_is_kept(tmp_path_factory, degrees, mirrored, spacing, origin):
    import SimpleITK as sitk

    path = tmp_path_factory.getbasetemp() / "any.nii.gz"
    before = affine_of(rotation(degrees) @ np.diag([-1 if mirrored else 1, 1, 1]), spacing, origin)
    write_nifti(path, np.zeros(SHAPE[::-1], np.uint8), (1, 1, 1), before)
    read = sitk.ReadImage(str(path))
    by_itk = np.eye(4)
    by_itk[:3, :3] = np.reshape(read.GetDirection(), (3, 3)) * read.GetSpacing()
    by_itk[:3, 3] = read.GetOrigin()
    for after in (nibabel.load(path).affine, np.diag([-1, -1, 1, 1]) @ by_itk):
        scale = np.linalg.norm(np.ptp(world(before), axis=0)) + np.linalg.norm(origin)  # the origin is a 32-bit number, too
        assert np.abs(world(after) - world(before)).max() < 1e-6 * scale


# --- headers that say one thing twice, or nothing ------------------------------------------------------------------------------------


def test_sform_counts_where_it_disagrees_with_qform(tmp_path):
    image = nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), None)
    image.set_sform(affine_of(np.diag([1, -1, 1])), 1)
    image.set_qform(affine_of(np.eye(3), (3, 3, 3), (0, 0, 0)), 1)
    nibabel.save(image, tmp_path / "v.nii")
    volume = open_nifti(tmp_path / "v.nii")
    assert_kept(volume.affine, affine_of(np.diag([1, -1, 1])))
    assert volume.spacing == SPACING[::-1]


@pytest.mark.parametrize("degrees", [(0, 0, 0), (20, 5, -40), (180, 0, 0)])
def test_qform_counts_where_there_is_no_sform(tmp_path, degrees):
    image = nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), None)
    image.set_sform(None, 0)
    image.set_qform(affine_of(rotation(degrees)), 1)
    nibabel.save(image, tmp_path / "v.nii.gz")
    stored = nibabel.load(tmp_path / "v.nii.gz")
    assert stored.header["sform_code"] == 0
    volume = open_nifti(tmp_path / "v.nii.gz")
    assert_kept(volume.affine, stored.get_qform())
    write_nifti(tmp_path / "w.nii.gz", volume.read(), volume.spacing, volume.affine)
    assert_kept(nibabel.load(tmp_path / "w.nii.gz").affine, volume.affine)


def test_neither_sform_nor_qform_gives_the_voxel_size_and_one_orientation_for_image_and_label(tmp_path):
    image = nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), None)
    image.header.set_zooms(SPACING)
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nibabel.save(image, tmp_path / "v.nii")
    volume = open_nifti(tmp_path / "v.nii")
    assert volume.spacing == SPACING[::-1]
    assert abs(np.linalg.det(volume.affine)) == pytest.approx(np.prod(SPACING))


@pytest.mark.parametrize("unit, factor", [("mm", 1), ("unknown", 1), ("micron", 1e-3), ("meter", 1e3)])
def test_lengths_are_converted_to_millimetres_as_itk_does(tmp_path, unit, factor):
    import SimpleITK as sitk

    image = nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), affine_of(np.eye(3)))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "v.nii")
    volume = open_nifti(tmp_path / "v.nii")
    np.testing.assert_allclose(volume.spacing, np.array(SPACING[::-1]) * factor, rtol=1e-6)
    np.testing.assert_allclose(volume.affine[:3, 3], np.array(ORIGIN) * factor)
    np.testing.assert_allclose(sitk.ReadImage(str(tmp_path / "v.nii")).GetSpacing(), volume.spacing[::-1], rtol=1e-6)


@pytest.mark.parametrize("noise, itk_refuses", [(1e-5, False), (3e-4, True)])
def test_nearly_orthogonal_axes_become_orthogonal(tmp_path, noise, itk_refuses):
    import SimpleITK as sitk

    directions = rotation((30, -20, 75)) + noise * np.array([[0, 1, -1], [1, 0, 1], [-1, 1, 0]])
    save(tmp_path / "v.nii.gz", np.zeros(SHAPE, np.uint8), affine_of(directions))
    if itk_refuses:
        with pytest.raises(RuntimeError, match="orthonormal"):
            sitk.ReadImage(str(tmp_path / "v.nii.gz"))
    volume = open_nifti(tmp_path / "v.nii.gz")
    sizes, straight = orthogonal_axes(volume.affine)
    np.testing.assert_allclose(straight.T @ straight, np.eye(3), atol=1e-7)
    extent = np.linalg.norm(np.ptp(world(volume.affine), axis=0))
    assert np.abs(world(volume.affine) - world(affine_of(directions))).max() < 2 * noise * extent
    write_nifti(tmp_path / "w.nii.gz", volume.read(), volume.spacing, volume.affine)
    np.testing.assert_allclose(sitk.ReadImage(str(tmp_path / "w.nii.gz")).GetSpacing(), sizes, rtol=1e-6)


def test_channels_that_differ_by_rounding_are_one_grid_for_nnunet(tmp_path):
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    affine = affine_of(rotation((10, 20, 30)))
    for name, noise in (("FA", 0), ("MD", 2e-5)):
        save(tmp_path / "in/s1" / f"{name}.nii.gz", voxels(1)[0], affine + noise * np.eye(4))
    save(tmp_path / "in/s1/seg.nii.gz", voxels(1)[1], affine - 1e-5)
    assert main(["thalamus", str(tmp_path / "in"), "--layout", "FA={subject}/FA.nii.gz", "MD={subject}/MD.nii.gz", "--mask",
                 "{subject}/seg.nii.gz", "--labels", "1=left,2=right", "--raw", str(tmp_path / "raw"), "-d", "900", "--name", "Two"]) == 0
    images = [str(tmp_path / f"raw/Dataset900_Two/imagesTr/s1_{channel:04d}.nii.gz") for channel in range(2)]
    array, _ = SimpleITKIO().read_images(images)  # stops where voxel sizes differ by the last bit
    assert array.shape == (2, *SHAPE[::-1])


# --- reading voxels ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", ["int16", ">i4", "float32", "uint64", "scaled"])
def test_a_region_is_the_part_of_the_whole(tmp_path, ending, kind):
    array = np.random.default_rng(0).integers(0, 1000, SHAPE).astype("i2" if kind == "scaled" else kind)
    image = nibabel.Nifti1Image(array, np.diag([1, 2, 3, 1]), dtype=array.dtype)
    if kind == "scaled":
        image.header.set_slope_inter(0.5, -3)
    elif kind == ">i4":
        image = nibabel.Nifti1Image(array, np.diag([1, 2, 3, 1]), image.header.as_byteswapped(">"))
    nibabel.save(image, tmp_path / f"v{ending}")
    volume = open_nifti(tmp_path / f"v{ending}")
    expected = np.asarray(nibabel.load(tmp_path / f"v{ending}").dataobj).T
    whole = volume.read()
    assert whole.dtype == volume.dtype and volume.dtype.isnative
    assert volume.dtype == (np.float64 if kind == "scaled" else array.dtype.newbyteorder("="))
    np.testing.assert_array_equal(whole, expected)
    region = (slice(2, 5), slice(1, 6), slice(0, 3))
    np.testing.assert_array_equal(volume.read(region), expected[region])
    cut = volume.crop(region)
    np.testing.assert_allclose(cut.affine[:3, 3], volume.affine[:3, :3] @ [0, 1, 2] + volume.affine[:3, 3])


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_fourth_axis_holds_channels(tmp_path, ending):
    array = np.random.default_rng(0).integers(0, 1000, (*SHAPE, 3)).astype(np.int16)
    save(tmp_path / f"v{ending}", array, np.eye(4))
    channels = open_channels(tmp_path / f"v{ending}")
    assert len(channels) == 3
    for number, volume in enumerate(channels):
        np.testing.assert_array_equal(volume.read(), array[..., number].T)
        np.testing.assert_array_equal(volume.plane(2).read(), array[:, :, 2, number].T)
    with pytest.raises(ValueError, match="3 volumes along its fourth axis"):
        open_nifti(tmp_path / f"v{ending}")


@pytest.mark.parametrize("further", [(1,), (1, 1)])
def test_trailing_axes_of_one_do_not_count(tmp_path, further):
    array = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    save(tmp_path / "v.nii", array.reshape(*SHAPE, *further), np.eye(4))
    np.testing.assert_array_equal(open_volume(tmp_path / "v.nii").read(), array.T)


def test_a_region_of_a_large_file_is_read_alone(tmp_path):
    """8 GB of voxels, a hole in the file but for one plane; reading them all would fail here."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((2000, 2000, 2000))
    header.set_sform(np.eye(4), 1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    with (tmp_path / "large.nii").open("wb") as stream:
        stream.write(header.binaryblock + bytes(4))
        stream.seek(352 + 2000 * 2000 * 1234 + 2000 * 7 + 5)
        stream.write(b"\x2a")
        stream.truncate(352 + 2000**3)
    volume = open_volume(tmp_path / "large.nii")
    part = volume.read((slice(1233, 1236), slice(6, 9), slice(5, 7)))
    assert part.sum() == part[1, 1, 0] == 42


@pytest.mark.parametrize("ending", [".mgh", ".mgz"])
def test_freesurfer_files_are_read(tmp_path, ending):
    array = np.arange(np.prod(SHAPE), dtype=np.int32).reshape(SHAPE)
    affine = affine_of(np.array([[-1, 0, 0], [0, 0, 1], [0, -1, 0]]), (1, 1, 1))
    nibabel.save(nibabel.MGHImage(array, affine), tmp_path / f"aseg{ending}")
    volume = open_nifti(tmp_path / f"aseg{ending}")
    assert_kept(volume.affine, affine)
    assert volume.dtype == np.int32 and volume.dtype.isnative
    np.testing.assert_array_equal(volume.read(), array.T)


def test_volumes_travel_to_workers(tmp_path):
    import pickle

    save(tmp_path / "v.nii.gz", voxels(0)[0], np.eye(4))
    volume = pickle.loads(pickle.dumps(open_nifti(tmp_path / "v.nii.gz")))
    np.testing.assert_array_equal(volume.read(), voxels(0)[0].T)
