"""Damaged, misleading and unfit TIFFs and slices: each is refused with a sentence that names it, and none is read as zeros."""

from __future__ import annotations

import re
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from nnunet_neuro.volumes import open_channels, open_volume
from tests.test_volumes import SHAPE, slice_pngs, slice_tiffs, voxels
from tests.test_volumes_converter import SPACING, refused

# no zero among them, so that a zero that is read is damage
VOXELS = voxels() + np.uint16(1)


def sentence_of(address: Path | str) -> str:
    """Read what must be refused; gives the sentence, which is one and names the file or folder."""
    with pytest.raises((ValueError, OSError)) as caught:
        for volume in open_channels(address):
            volume.read()
    sentence = str(caught.value)
    assert "\n" not in sentence and Path(str(address)).name.partition(".")[0] in sentence
    return sentence


def converted_in_vain(capsys, folders, image: Path | str) -> str:
    """Convert an image that must be refused, with a label as its header wants it; gives the one sentence."""
    try:
        shape = open_volume(image).shape
    except (ValueError, OSError):
        shape = SHAPE
    np.save(folders.raw.parent / "label.npy", np.zeros(shape, np.uint8))
    sentence = refused(capsys, "--image", image, "--label", folders.raw.parent / "label.npy", "--labels", "1=cell", *SPACING)
    assert not list(folders.raw.rglob("dataset.json")) and not list(folders.raw.rglob("splits_final.json"))
    return sentence


def is_whole_or_refused(address: Path | str, whole: np.ndarray) -> bool:
    """Whether a damaged volume is refused; if not, it must give the voxels that it always held."""
    try:
        found = open_volume(address).read()
    except (ValueError, OSError) as error:
        assert "\n" not in str(error)
        return True
    np.testing.assert_array_equal(found, whole)
    return False


def overwritten_place(file: Path, place: int, *, by: int = 255) -> None:
    """Other bits in one byte of a file."""
    content = bytearray(file.read_bytes())
    content[place] ^= by
    file.write_bytes(content)


# --- one writer per way to lay out a TIFF ------------------------------------------------------------------------------------------------


def stack(path: Path, array: np.ndarray = VOXELS, **options) -> None:
    tifffile.imwrite(path, array, photometric="minisblack", **options)


def plane_by_plane(path: Path, planes=VOXELS, **options) -> None:
    with tifffile.TiffWriter(path, **options) as tif:
        for plane in planes:
            tif.write(plane, contiguous=False, metadata=None)


def pillow(path: Path) -> None:
    first, *others = map(Image.fromarray, VOXELS)
    first.save(path, save_all=True, append_images=others)


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "tifffile": stack,
    "deflate": lambda path: stack(path, compression="zlib"),
    "deflate in strips": lambda path: stack(path, compression="zlib", rowsperstrip=4),
    "deflate in tiles": lambda path: stack(path, compression="zlib", tile=(16, 16)),
    "LZW": lambda path: stack(path, compression="lzw"),
    "tiles": lambda path: stack(path, tile=(16, 16)),
    "tiles of several planes": lambda path: stack(path, volumetric=True, tile=(16, 16, 16)),
    "big-endian": lambda path: stack(path, byteorder=">"),
    "BigTIFF": lambda path: stack(path, bigtiff=True),
    "without a description": lambda path: stack(path, metadata=None),
    "ImageJ": lambda path: tifffile.imwrite(path, VOXELS, imagej=True, metadata={"axes": "ZYX"}),
    "OME": lambda path: tifffile.imwrite(path, VOXELS, ome=True, metadata={"axes": "ZYX"}),
    "plane by plane": plane_by_plane,
    "plane by plane, BigTIFF": lambda path: plane_by_plane(path, bigtiff=True),
    "Pillow": pillow,
}
# those in which every byte of the voxels stands under a checksum
CHECKED = [name for name in LAYOUTS if "deflate" in name]


# --- bad files ---------------------------------------------------------------------------------------------------------------------------


def written(write: Callable[[Path], None], *changes: Callable[[Path], None]) -> Callable[[Path], None]:
    """Write a good file, then damage it."""

    def make(path: Path) -> None:
        for step in (write, *changes):
            step(path)

    return make


def cut_off(bytes_off: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[:-bytes_off])


def cut_to(length: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[:length])


def replaced(old: bytes, new: bytes) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        content = path.read_bytes()
        assert old in content and len(old) == len(new)
        path.write_bytes(content.replace(old, new))

    return change


def overwritten(page: int, fill: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Other bytes where the first strip or tile of a page lies."""

    def change(path: Path) -> None:
        with tifffile.TiffFile(path) as tif:
            start, length = tif.pages[page].dataoffsets[0], tif.pages[page].databytecounts[0]
        content = path.read_bytes()
        path.write_bytes(content[:start] + fill(content[start:start + length]) + content[start + length:])

    return change


def tag(page: int, name: str, *values: int) -> Callable[[Path], None]:
    """Another value in a tag of one page, or in all that share its place."""

    def change(path: Path) -> None:
        with tifffile.TiffFile(path) as tif:
            found = tif.pages[page].tags[name]
            place, kind, order = found.valueoffset, {3: "H", 4: "I", 16: "Q"}[int(found.dtype)], tif.byteorder
        content = bytearray(path.read_bytes())
        struct.pack_into(f"{order}{len(values)}{kind}", content, place, *values)
        path.write_bytes(content)

    return change


def following(page: int, next_page: int | None) -> Callable[[Path], None]:
    """Another page behind a page in the chain of a little-endian TIFF; None ends the chain."""

    def change(path: Path) -> None:
        with tifffile.TiffFile(path) as tif:
            offsets = [one.offset for one in tif.pages]
        content = bytearray(path.read_bytes())
        tags = struct.unpack_from("<H", content, offsets[page])[0]
        struct.pack_into("<I", content, offsets[page] + 2 + 12 * tags, 0 if next_page is None else offsets[next_page])
        path.write_bytes(content)

    return change


def scattered(path: Path) -> None:
    """Two strips of one page, exchanged in the file and in its header."""
    strips(path)
    with tifffile.TiffFile(path) as tif:
        first, second, third = tif.pages[3].dataoffsets
    content = bytearray(path.read_bytes())
    content[first:second], content[second:third] = content[second:third], content[first:second]
    path.write_bytes(content)
    tag(3, "StripOffsets", second, first, third)(path)


def part_of_several_files(path: Path) -> None:
    tifffile.imwrite(path, VOXELS, ome=True, metadata={"axes": "ZYX"})
    with tifffile.TiffFile(path) as tif:
        parts = "".join(f'<TiffData IFD="0" FirstZ="{first}" PlaneCount="{count}"><UUID FileName="{name}">urn:uuid:1</UUID></TiffData>'
                        for name, first, count in (("brain.ome.tif", 0, 4), ("rest.ome.tif", 4, 3)))
        description = re.sub(r"<TiffData[^>]*/>", parts, tif.ome_metadata)
    tifffile.imwrite(path, VOXELS[:4], description=description.encode(), metadata=None, photometric="minisblack")


def several(*arrays: np.ndarray) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with tifffile.TiffWriter(path) as tif:
            for array in arrays:
                tif.write(array)

    return make


def with_spacing_file(text: str) -> Callable[[Path], None]:
    return written(stack, lambda path: path.with_suffix(".json").write_text(text))


def strips(path: Path, **options) -> None:
    stack(path, rowsperstrip=4, metadata=None, **options)


def deflated_strips(path: Path) -> None:
    strips(path, compression="zlib")


def one_plane(rows: int, **options) -> Callable[[Path], None]:
    return lambda path: stack(path, VOXELS[:1, :rows], compression="zlib", metadata=None, **options)


CORRUPT = overwritten(3, lambda old: old[:40] + bytes([old[40] ^ 255]) + old[41:])

# name: (file name, writer, words of the sentence)
BAD: dict[str, tuple[str, Callable[[Path], None], str]] = {
    # not whole
    "empty": ("brain.tif", lambda path: path.write_bytes(b""), "not a TIFF file"),
    "a web page": ("brain.tif", lambda path: path.write_bytes(b"<!DOCTYPE html>" * 40), "not a TIFF file"),
    "a PNG": ("brain.tif", lambda path: Image.fromarray(VOXELS[0]).save(path, format="PNG"), "not a TIFF file"),
    "cut in the file header": ("brain.tif", written(stack, cut_to(6)), "brain.tif"),
    "cut in the first page header": ("brain.tif", written(stack, cut_to(60)), "brain.tif"),
    "cut in the voxels": ("brain.tif", written(stack, cut_to(1000)), "brain.tif"),
    "cut in the last plane": ("brain.tif", written(plane_by_plane, cut_off(400)), "copy it again"),
    "cut by one page, tifffile": ("brain.tif", written(LAYOUTS["deflate"], following(5, None)), "6 pages found, 7 expected"),
    "cut by one page, ImageJ": ("brain.tif", written(LAYOUTS["ImageJ"], following(5, None)), "6 pages found, 7 expected"),
    "cut by one page, OME": ("brain.ome.tif", written(LAYOUTS["OME"], following(5, None)), "6 pages found, 7 expected"),
    "cut BigTIFF": ("brain.tif", written(LAYOUTS["BigTIFF"], cut_off(40)), "brain.tif"),
    "cut deflate": ("brain.tif", written(one_plane(12), cut_off(1)), "truncated"),
    # damaged
    "corrupt strip": ("brain.tif", written(LAYOUTS["deflate"], CORRUPT), "copy it again"),
    "strip of zero bytes": ("brain.tif", written(LAYOUTS["deflate"], overwritten(3, lambda old: bytes(len(old)))), "copy it again"),
    "tile of no bytes": ("brain.tif", written(LAYOUTS["deflate in tiles"], tag(3, "TileByteCounts", 0)), "lacks 1 of 1 strips"),
    "tile nowhere": ("brain.tif", written(LAYOUTS["deflate in tiles"], tag(3, "TileOffsets", 0)), "would be read as zeros"),
    "tile too short": ("brain.tif", written(LAYOUTS["deflate in tiles"], tag(3, "TileByteCounts", 20)), "copy it again"),
    "tile behind the end": ("brain.tif", written(LAYOUTS["tiles"], tag(3, "TileOffsets", 4900)), "truncated"),
    "fewer tiles than the plane has": ("brain.tif", written(one_plane(12, tile=(16, 16)), tag(0, "ImageLength", 32)), "lacks 1 of 2"),
    "strips of no bytes": ("brain.tif", written(strips, tag(0, "StripByteCounts", 0, 0, 0)), "lacks 3 of 3"),
    "compressed strip nowhere": ("brain.tif", written(deflated_strips, tag(2, "StripOffsets", 0, 0, 0)), "strips or tiles of page 2"),
    "strips too short": ("brain.tif", written(strips, tag(0, "StripByteCounts", 80, 80, 40)), "200 bytes"),
    "strip of too few rows": ("brain.tif", written(one_plane(8), tag(0, "ImageLength", 12), tag(0, "RowsPerStrip", 12)), "brain.tif"),
    "scattered strips": ("brain.tif", scattered, "page 3 in scattered strips"),
    "loop of pages": ("brain.tif", written(plane_by_plane, following(6, 2)), "damaged"),
    "unknown compression": ("brain.tif", written(one_plane(12), tag(0, "Compression", 9999)), "brain.tif"),
    "OME of more planes": ("brain.ome.tif", written(LAYOUTS["OME"], replaced(b'SizeZ="7"', b'SizeZ="9"')), "7 pages found, 9 expected"),
    "OME of fewer planes": ("brain.ome.tif", written(LAYOUTS["OME"], replaced(b'SizeZ="7"', b'SizeZ="5"')), "brain.ome.tif"),
    "OME that is no XML": ("brain.ome.tif", written(LAYOUTS["OME"], replaced(b"</Image>", b"</Imago>")), "ParseError"),
    "ImageJ of fewer planes": ("brain.tif", written(LAYOUTS["ImageJ"], replaced(b"images=7", b"images=5"),
                                                    replaced(b"slices=7", b"slices=5")), "7 pages"),
    # no volume
    "colour": ("brain.tif", lambda path: tifffile.imwrite(path, np.zeros((*SHAPE, 3), np.uint8), photometric="rgb"), "colour"),
    "colour plane by plane": ("brain.tif", lambda path: tifffile.imwrite(path, np.zeros((7, 3, 12, 10), np.uint8), photometric="rgb",
                                                                     planarconfig="separate"), "colour"),
    "a colour page at the end": ("brain.tif", lambda path: plane_by_plane(path, [*VOXELS, np.zeros((12, 10, 3), np.uint8)]), "brain.tif"),
    "time in ImageJ": ("brain.tif", lambda path: tifffile.imwrite(path, np.stack([VOXELS] * 2), imagej=True, metadata={"axes": "TZYX"}),
                       "one time point"),
    "time in OME": ("brain.ome.tif", lambda path: tifffile.imwrite(path, VOXELS, ome=True, metadata={"axes": "TYX"}), "one time point"),
    "five axes": ("brain.tif", lambda path: stack(path, np.zeros((2, 3, 4, 5, 6), np.uint8)), "(2, 3, 4, 5, 6)"),
    "several images": ("brain.tif", several(VOXELS, VOXELS[:, :5]), "2 separate images"),
    "a thumbnail in front": ("brain.tif", lambda path: plane_by_plane(path, [VOXELS[0, ::2, ::2], *VOXELS]), "separate images"),
    "a last page of another shape": ("brain.tif", lambda path: plane_by_plane(path, [*VOXELS, VOXELS[0, :5]]), "separate images"),
    "a page of another type": ("brain.tif", lambda path: plane_by_plane(path, [*VOXELS[:3], VOXELS[3].astype(np.uint8), *VOXELS[4:]]),
                               "separate images"),
    "one file of several": ("brain.ome.tif", part_of_several_files, "several files"),
    "complex": ("brain.tif", lambda path: tifffile.imwrite(path, VOXELS.astype(np.complex64)), "complex64"),
    # the voxel size beside it
    "voxel size of two numbers": ("brain.tif", with_spacing_file('{"spacing": [1, 2]}'), "brain.json"),
    "voxel size of 0": ("brain.tif", with_spacing_file('{"spacing": [1, 2, 0]}'), "brain.json"),
    "voxel size of NaN": ("brain.tif", with_spacing_file('{"spacing": [1, 2, NaN]}'), "brain.json"),
    "voxel size in words": ("brain.tif", with_spacing_file('{"spacing": "1, 2, 3"}'), "brain.json"),
    "voxel size cut off": ("brain.tif", with_spacing_file('{"spacing": [1, 2,'), "brain.json"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_tiff_is_refused(tmp_path, what):
    name, write, words = BAD[what]
    write(tmp_path / name)
    assert words in sentence_of(tmp_path / name)


@pytest.mark.parametrize("what", BAD)
def test_bad_tiff_ends_a_conversion_in_one_sentence(tmp_path, nnunet_folders, capsys, what):
    name, write, words = BAD[what]
    write(tmp_path / name)
    assert words in converted_in_vain(capsys, nnunet_folders, tmp_path / name)


# --- slices ------------------------------------------------------------------------------------------------------------------------------


def png(array: np.ndarray, **options) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(array).save(path, **options)


def png_of_another_height(height: int) -> Callable[[Path], None]:
    """A good PNG whose header, with its checksum, was changed."""

    def make(path: Path) -> None:
        Image.fromarray(VOXELS[0].astype(np.uint8)).save(path)
        content = path.read_bytes()
        header = b"IHDR" + struct.pack(">II", SHAPE[2], height) + content[24:29]
        path.write_bytes(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])

    return make


def frames(path: Path) -> None:
    first, *others = (Image.fromarray(plane.astype(np.uint8)) for plane in VOXELS)
    first.save(path, save_all=True, append_images=others)


BAD_SLICES: dict[str, tuple[Callable[[Path, np.ndarray], Path], str, Callable[[Path], None], str]] = {
    # name: (writer of good slices, the one that is changed, how, words of the sentence)
    "missing": (slice_tiffs, "s10000.tif", lambda path: path.unlink(), "without 10000 (1 missing)"),
    "number far away": (slice_tiffs, "s10000.tif", lambda path: path.rename(path.with_name("s20240131120000.tif")), "without 10000"),
    "without a number": (slice_tiffs, "s10000.tif", lambda path: path.rename(path.with_name("last.tif")), "no number"),
    "twice": (slice_tiffs, "s10000.tif", lambda path: shutil.copy(path, path.with_name("t10000.tif")), "both slice 10000"),
    "another shape": (slice_tiffs, "s10000.tif", lambda path: tifffile.imwrite(path, VOXELS[0, :5]), "(5, 10)"),
    "another type": (slice_tiffs, "s10000.tif", lambda path: tifffile.imwrite(path, VOXELS[0].astype(np.uint8)), "uint8"),
    "a stack": (slice_tiffs, "s10000.tif", lambda path: stack(path, VOXELS[:2]), "2 pages"),
    "colour": (slice_tiffs, "s10000.tif", lambda path: tifffile.imwrite(path, np.zeros((12, 10, 3), np.uint8)), "(12, 10, 3)"),
    "complex": (slice_tiffs, "s9998.tif", lambda path: tifffile.imwrite(path, VOXELS[0].astype(np.complex64)), "complex64"),
    "cut": (slice_tiffs, "s10000.tif", cut_off(30), "truncated"),
    "empty": (slice_tiffs, "s10000.tif", cut_to(0), "not a TIFF file"),
    "strip of no bytes": (slice_tiffs, "s10000.tif", tag(0, "StripByteCounts", 0), "read as zeros"),
    "a folder": (slice_tiffs, "s10000.tif", lambda path: (path.unlink(), path.mkdir()), "s10000.tif"),
    "a broken link": (slice_tiffs, "s10000.tif", lambda path: (path.unlink(), path.symlink_to("gone")), "s10000.tif"),
    "TIFF and PNG": (slice_tiffs, "s10000.tif", lambda path: (path.unlink(), png(VOXELS[0])(path.with_suffix(".png"))), "several kinds"),
    "no slices": (slice_tiffs, "s10000.tif", lambda path: [file.rename(file.with_suffix(".txt")) for file in path.parent.iterdir()],
                  "no slice TIFF or PNG"),
    "cut PNG": (slice_pngs, "im0003.png", cut_off(40), "damaged"),
    "empty PNG": (slice_pngs, "im0003.png", cut_to(0), "no readable PNG"),
    "PNG with a damaged byte": (slice_pngs, "im0003.png", replaced(b"IDAT", b"IDAX"), "im0003.png"),
    "PNG of 16 bits": (slice_pngs, "im0003.png", png(VOXELS[0]), "uint16"),
    "colour PNG": (slice_pngs, "im0003.png", png(np.zeros((12, 10, 3), np.uint8)), "colour image"),
    "transparent PNG": (slice_pngs, "im0003.png", png(np.zeros((12, 10, 2), np.uint8)), "colour image"),
    "indexed PNG": (slice_pngs, "im0003.png", lambda path: Image.open(path).convert("P").save(path), "indexed-colour"),
    "JPEG named PNG": (slice_pngs, "im0003.png", png(VOXELS[0].astype(np.uint8), format="JPEG"), "no readable PNG"),
    "PNG of several frames": (slice_pngs, "im0003.png", frames, "7 frames"),
    "PNG of a billion rows": (slice_pngs, "im0003.png", png_of_another_height(10**9), "(1000000000, 10)"),
}


def bad_slices(folder: Path, what: str) -> Path:
    write, name, change, _ = BAD_SLICES[what]
    write(folder, VOXELS.astype(np.uint8) if write is slice_pngs else VOXELS)
    change(folder / name)
    return folder


@pytest.mark.parametrize("what", BAD_SLICES)
def test_bad_slice_is_refused(tmp_path, what):
    assert BAD_SLICES[what][-1] in sentence_of(bad_slices(tmp_path, what))


@pytest.mark.parametrize("what", BAD_SLICES)
def test_bad_slice_ends_a_conversion_in_one_sentence(tmp_path, nnunet_folders, capsys, what):
    folder = tmp_path / "slices"
    folder.mkdir()
    assert BAD_SLICES[what][-1] in converted_in_vain(capsys, nnunet_folders, bad_slices(folder, what))


def test_png_of_too_few_rows_is_refused(tmp_path):
    png_of_another_height(40)(tmp_path / "brain.png")
    assert "Not enough image data" in sentence_of(tmp_path / "brain.png")


# --- what looks odd and is right ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read(tmp_path, layout):
    path = tmp_path / ("brain.ome.tif" if layout == "OME" else "brain.tif")
    LAYOUTS[layout](path)
    np.testing.assert_array_equal(open_volume(path).read(), VOXELS)
    np.testing.assert_array_equal(open_volume(path).read((slice(2, 4), slice(1, 12), slice(3, 5))), VOXELS[2:4, 1:12, 3:5])


def test_indexed_colour_of_a_tiff_is_read_as_indices(tmp_path):
    colours = np.random.default_rng(0).integers(0, 65536, (3, 256)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "brain.tif", VOXELS.astype(np.uint8), photometric="palette", colormap=colours)
    np.testing.assert_array_equal(open_volume(tmp_path / "brain.tif").read(), VOXELS.astype(np.uint8))


def test_pyramid_behind_the_planes_does_not_count(tmp_path):
    with tifffile.TiffWriter(tmp_path / "brain.ome.tif") as tif:
        tif.write(VOXELS, subifds=1, metadata={"axes": "ZYX"})
        tif.write(VOXELS[:, ::2, ::2], subfiletype=1)
    np.testing.assert_array_equal(open_volume(tmp_path / "brain.ome.tif").read(), VOXELS)


@pytest.mark.parametrize("spacing", ["thick", float("nan"), float("inf"), -0.3])
def test_voxel_size_that_is_none_is_asked_for(tmp_path, spacing):
    tifffile.imwrite(tmp_path / "brain.tif", VOXELS, imagej=True, resolution=(1, 1),
                     metadata={"axes": "ZYX", "spacing": spacing, "unit": "um"})
    assert open_volume(tmp_path / "brain.tif").spacing is None


def test_grey_png_with_a_transparent_value(tmp_path):
    Image.fromarray(VOXELS[0].astype(np.uint8)).save(tmp_path / "brain.png", transparency=3)
    np.testing.assert_array_equal(open_volume(tmp_path / "brain.png").read(), VOXELS[0].astype(np.uint8))


# --- any damage --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_cut_tiff_is_read_as_something_else(tmp_path, layout):
    path = tmp_path / ("brain.ome.tif" if layout == "OME" else "brain.tif")
    LAYOUTS[layout](path)
    whole = path.read_bytes()
    refusals = 0
    for length in np.random.default_rng(0).integers(0, len(whole), 40):
        path.write_bytes(whole[:length])
        refusals += is_whole_or_refused(path, VOXELS)
    assert refusals > 30  # the last bytes may be a description or padding


@pytest.mark.parametrize("layout", CHECKED)
def test_no_damaged_voxels_are_read(tmp_path, layout):
    """Only deflate keeps a checksum; a changed voxel of an uncompressed TIFF is a voxel like any other."""
    path = tmp_path / "brain.tif"
    LAYOUTS[layout](path)
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as tif:
        places = np.concatenate([np.arange(offset, offset + count) for page in tif.pages
                                 for offset, count in zip(page.dataoffsets, page.databytecounts)])
    generator = np.random.default_rng(1)
    refusals = 0
    for place in generator.choice(places, 60, replace=False):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ generator.integers(1, 256)]) + whole[place + 1:])
        refusals += is_whole_or_refused(path, VOXELS)
    assert refusals > 40


def test_any_damage_of_a_png_is_refused_or_harmless(tmp_path):
    slice_pngs(tmp_path, VOXELS.astype(np.uint8))
    path = tmp_path / "im0003.png"
    whole = path.read_bytes()
    generator = np.random.default_rng(2)
    refusals = 0
    for place in generator.integers(0, len(whole), 60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ generator.integers(1, 256)]) + whole[place + 1:])
        refusals += is_whole_or_refused(tmp_path, VOXELS.astype(np.uint8))
        path.write_bytes(whole[:place])
        assert is_whole_or_refused(tmp_path, VOXELS.astype(np.uint8)) or place >= len(whole) - 12  # the mark of its end
    assert refusals > 40


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_damage_of_a_header_is_a_sentence_or_a_volume(tmp_path, layout):
    """Where nothing contradicts a changed header it is believed; what must not happen is another kind of error."""
    path = tmp_path / ("brain.ome.tif" if layout == "OME" else "brain.tif")
    LAYOUTS[layout](path)
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as tif:
        headers = np.concatenate([np.arange(page.offset, page.offset + 300) for page in tif.pages] + [np.arange(8)])
    headers = headers[headers < len(whole)]
    generator = np.random.default_rng(3)
    refusals = 0
    for _ in range(40):
        content = bytearray(whole)
        for place in generator.choice(headers, generator.integers(1, 4)):
            content[place] = generator.integers(0, 256)
        path.write_bytes(content)
        try:
            for volume in open_channels(path)[:3]:
                assert volume.read().shape == volume.shape
        except (ValueError, OSError) as error:
            assert path.name in str(error) and "\n" not in str(error)
            refusals += 1
    assert refusals > 3
