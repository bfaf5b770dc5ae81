"""Damaged, incomplete and unfit Zarr, HDF5, N5, precomputed, NRRD and npy: each is refused with a sentence that names it.

A missing chunk, which all of these libraries read as zeros if they are let, is an error everywhere.
"""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_neuro.volumes import open_volume
from tests.test_bad_tiff import VOXELS, converted_in_vain, is_whole_or_refused, overwritten_place, sentence_of
from tests.test_volumes import hdf5, npy, nrrd, ome_zarr, tensorstore_volume, zarr_array
from tests.test_volumes_converter import SPACING, refused

Maker = Callable[[Path], "Path | str"]
Change = Callable[[Path], object]
HAS_ZARR_3 = sys.version_info >= (3, 11)

v2, v3, sharded = zarr_array(2), zarr_array(3), zarr_array(3, shards=(4, 16, 16))
n5, precomputed = tensorstore_volume("n5"), tensorstore_volume("neuroglancer_precomputed")


def changed(write: Callable[[Path, np.ndarray], Path], *changes: Change) -> Maker:
    """Write a good volume, then damage it."""

    def make(folder: Path) -> Path:
        address = write(folder, VOXELS)
        for change in changes:
            change(address)
        return address

    return make


def without(name: str) -> Change:
    """No file or folder of that name."""

    def change(address: Path) -> None:
        path = address / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def content(name: str, new: Callable[[bytes], bytes]) -> Change:
    return lambda address: (address / name).write_bytes(new((address / name).read_bytes()))


def with_json(name: str, edit: Callable[[dict[str, Any]], object]) -> Change:
    """A JSON file with something else in it."""

    def change(address: Path) -> None:
        file = address / name
        parsed = json.loads(file.read_text())
        edit(parsed)
        file.write_text(json.dumps(parsed))

    return change


def cut(old: bytes) -> bytes:
    return old[: len(old) // 2]


def zeroed(old: bytes) -> bytes:
    return bytes(len(old))


def nothing(old: bytes) -> bytes:
    return b""


# --- Zarr --------------------------------------------------------------------------------------------------------------------------------


def made(**options) -> Maker:
    """An array that zarr makes of whatever is given."""

    def make(folder: Path) -> Path:
        import zarr

        zarr.create_array(str(folder / "v.zarr"), **options)
        return folder / "v.zarr"

    return make


def group_of(*names: str) -> Maker:
    def make(folder: Path) -> Path:
        import zarr

        group = zarr.open_group(str(folder / "v.zarr"), mode="w")
        for name in names:
            group.create_array(name, data=VOXELS)
        return folder / "v.zarr"

    return make


def hole_in_a_shard(folder: Path) -> Path:
    """zarr leaves out chunks of the fill value unless it is told not to, within a shard too."""
    import zarr

    stored = zarr.create_array(str(folder / "v.zarr"), shape=VOXELS.shape, chunks=(4, 8, 8), shards=(4, 16, 16), dtype=VOXELS.dtype)
    empty = VOXELS.copy()
    empty[:4, :8, :8] = 0
    stored[:] = empty
    return folder / "v.zarr"


def resized(address: Path) -> None:
    import zarr

    zarr.open_array(str(address), mode="r+").resize((12, 12, 10))


def two_times(folder: Path) -> Path:
    import zarr

    address = ome_zarr(2, "tczyx")(folder, VOXELS)
    shutil.rmtree(address / "0")
    zarr.create_array(str(address / "0"), data=np.stack([VOXELS] * 2)[:, None], chunks=(1, 1, 4, 4, 4), zarr_format=2)
    return address


def image(edit: Callable[[dict[str, Any]], object]) -> Maker:
    """An OME-Zarr image whose metadata were edited."""
    return changed(ome_zarr(3), with_json("zarr.json", lambda root: edit(root["attributes"]["ome"]["multiscales"][0])))


def first_level(**entries) -> Maker:
    return image(lambda metadata: metadata["datasets"][0].update(entries))


def scaled(*scale) -> Maker:
    return first_level(coordinateTransformations=[{"type": "scale", "scale": scale}])


META = "zarr.json"

BAD_ZARR: dict[str, tuple[Maker, str]] = {
    # chunks
    "missing chunk, v2": (changed(v2, without("1.0.1")), "lacks 1 of 8 chunks, the first of them 1.0.1"),
    "missing chunk, v3": (changed(v3, without("c/1/0/1")), "lacks 1 of 8 chunks, the first of them c/1/0/1"),
    "no chunk at all": (changed(v3, without("c")), "lacks 8 of 8 chunks"),
    "missing shard": (changed(sharded, without("c/1/0/0")), "lacks 1 of 2 chunks"),
    "missing chunk in a shard": (hole_in_a_shard, "lacks 1 of 4 chunks of its shard c/0/0/0"),
    "missing chunk of an image": (changed(ome_zarr(2, "tczyx"), without("0/0.0.1.2.1")), "the first of them 0.0.1.2.1"),
    "a folder for a chunk": (changed(v2, without("1.0.1"), lambda address: (address / "1.0.1").mkdir()), "lacks 1 of 8"),
    "empty chunk, v2": (changed(v2, content("1.0.1", nothing)), "1.0.1 is empty"),
    "empty chunk, v3": (changed(v3, content("c/1/0/1", nothing)), "c/1/0/1 is empty"),
    "empty shard": (changed(sharded, content("c/1/0/0", nothing)), "c/1/0/0 is empty"),
    "cut chunk, v2": (changed(v2, content("1.0.1", cut)), "damaged"),
    "cut chunk, v3": (changed(v3, content("c/1/0/1", cut)), "damaged"),
    "cut shard": (changed(sharded, content("c/1/0/0", cut)), "v.zarr"),
    "shard shorter than its index": (changed(sharded, content("c/1/0/0", lambda old: old[-20:])), "its index alone takes 64"),
    "cut raw chunk": (changed(zarr_array(2, compressors=None), content("1.0.1", cut)), "damaged"),
    "raw chunk with more behind": (changed(zarr_array(3, compressors=None), content("c/1/0/1", lambda old: old + b"more")), "damaged"),
    "zeros for a chunk, v2": (changed(v2, content("1.0.1", zeroed)), "damaged"),
    "zeros for a chunk, v3": (changed(v3, content("c/1/0/1", zeroed)), "damaged"),
    "zeros for a shard": (changed(sharded, content("c/1/0/0", zeroed)), "checksum"),
    "ones for a shard": (changed(sharded, content("c/1/0/0", lambda old: b"\xff" * len(old))), "lacks 4 of 4 chunks of its shard"),
    "resized without new chunks": (changed(v3, resized), "lacks 4 of 12 chunks"),
    # metadata
    "cut zarr.json": (changed(v3, content(META, cut)), "zarr.json is no JSON"),
    "cut .zarray": (changed(v2, content(".zarray", cut)), "JSONDecodeError"),
    "cut .zattrs": (changed(v2, content(".zattrs", cut)), ".zattrs is no JSON"),
    "empty zarr.json": (changed(v3, content(META, nothing)), "zarr.json is no JSON"),
    "binary zarr.json": (changed(v3, content(META, zeroed)), "zarr.json is no JSON"),
    "a list for zarr.json": (changed(v3, content(META, lambda old: b"[]")), "no JSON object"),
    "empty object for .zarray": (changed(v2, content(".zarray", lambda old: b"{}")), "cannot be opened"),
    "attributes that are a list": (changed(v3, with_json(META, lambda meta: meta.update(attributes=[1]))), "attributes"),
    "unknown codec, v2": (changed(v2, with_json(".zarray", lambda meta: meta.update(compressor={"id": "nope"}))), "nope"),
    "unknown codec, v3": (changed(v3, with_json(META, lambda meta: meta["codecs"].append({"name": "nope"}))), "nope"),
    "no chunk grid": (changed(v3, with_json(META, lambda meta: meta.pop("chunk_grid"))), "chunk_grid"),
    "negative shape": (changed(v3, with_json(META, lambda meta: meta.update(shape=[-7, 12, 10]))), "cannot be opened"),
    "another type, v3": (changed(v3, with_json(META, lambda meta: meta.update(data_type="uint32"))), "damaged"),
    "another type, v2": (changed(v2, with_json(".zarray", lambda meta: meta.update(dtype="|u1"))), "damaged"),
    "another size of chunks": (changed(v2, with_json(".zarray", lambda meta: meta.update(chunks=[4, 16, 16]))), "damaged"),
    "another separator": (changed(v2, with_json(".zarray", lambda meta: meta.update(dimension_separator="/"))), "lacks 8 of 8"),
    # no volume
    "empty group": (group_of(), "group of 0 arrays"),
    "several arrays": (group_of("a", "b"), "group of 2 arrays (a, b)"),
    "records": (made(shape=(2, 3, 4), chunks=(2, 3, 4), dtype=np.dtype([("a", "u1"), ("b", "u2")]), zarr_format=2), "elements of type"),
    "complex": (made(data=VOXELS.astype(np.complex64), chunks=(4, 8, 8)), "complex64"),
    "text": (made(data=VOXELS.astype("U4"), chunks=(4, 8, 8), zarr_format=2), "<U4"),
    "one axis": (made(data=VOXELS.ravel(), chunks=(100,)), "1 axes"),
    "five axes": (made(data=VOXELS[None, None], chunks=(1, 1, 4, 8, 8)), "5 axes"),
    "no voxel": (made(shape=(0, 3, 4), chunks=(1, 3, 4), dtype="u1"), "no voxel"),
    "channels behind": (made(data=np.zeros((20, 3, 4, 5), np.uint8), chunks=(20, 3, 4, 5)), "channels in front"),
    # OME-Zarr
    "time points": (two_times, "2 time points"),
    "missing level": (changed(ome_zarr(3), without("0")), "there is no array in"),
    "level elsewhere": (first_level(path="../../gone"), "there is no array in"),
    "level without a path": (first_level(path=None), "cannot be followed"),
    "axes of another number": (image(lambda metadata: metadata["axes"].pop(0)), "3 scales for the axes y, x"),
    "one axis more": (image(lambda metadata: (metadata["axes"].insert(0, {"name": "c"}), metadata["datasets"][0].clear(),
                                              metadata["datasets"][0].update(path="0"))), "name the axes c, z, y, x"),
    "an axis twice": (image(lambda metadata: metadata["axes"][0].update(name="x")), "axes x, y, x"),
    "an axis of another name": (image(lambda metadata: metadata["axes"][0].update(name="depth")), "axes ?, y, x"),
    "an axis without a name": (image(lambda metadata: metadata["axes"][0].update(name=None)), "cannot be followed"),
    "no axes": (image(lambda metadata: metadata.pop("axes")), "'axes'"),
    "no levels": (image(lambda metadata: metadata.pop("datasets")), "'datasets'"),
    "scale of two numbers": (scaled(1, 2), "2 scales"),
    "scale in words": (scaled("a", 1, 1), "cannot be followed"),
    "scale without numbers": (first_level(coordinateTransformations=[{"type": "scale"}]), "'scale'"),
    "multiscales in words": (changed(ome_zarr(3), with_json(META, lambda root: root["attributes"]["ome"].update(multiscales="yes"))),
                             "cannot be followed"),
}

# --- HDF5 --------------------------------------------------------------------------------------------------------------------------------


def hdf5_file(write: Callable[[Any], object], name: str = "") -> Maker:
    """`v.h5` as a function fills it, and perhaps the name of the dataset behind it."""

    def make(folder: Path) -> Path:
        import h5py

        with h5py.File(folder / "v.h5", "w") as file:
            write(file)
        return folder / "v.h5" / name

    return make


def dataset(name: str = "", **options) -> Maker:
    return hdf5_file(lambda file: file.create_dataset("raw", **options), name)


def some_chunks(file) -> None:
    file.create_dataset("raw", shape=VOXELS.shape, dtype=VOXELS.dtype, chunks=(4, 8, 8))[:4] = VOXELS[:4]


def grown(file) -> None:
    file.create_dataset("raw", data=VOXELS, chunks=(4, 8, 8), maxshape=(None, 12, 10)).resize((20, 12, 10))


def outside(folder: Path) -> Path:
    """The voxels in a file of their own, which is cut: HDF5 reads zeros for the rest."""
    import h5py

    place = (str(folder / "raw.bin"), 0, VOXELS.nbytes)
    with h5py.File(folder / "v.h5", "w") as file:
        file.create_dataset("raw", shape=VOXELS.shape, dtype=VOXELS.dtype, external=[place])[:] = VOXELS
    (folder / "raw.bin").write_bytes((folder / "raw.bin").read_bytes()[:200])
    return folder / "v.h5"


def virtual(folder: Path) -> Path:
    """Put together from a file that is gone: HDF5 reads zeros."""
    import h5py

    layout = h5py.VirtualLayout(shape=VOXELS.shape, dtype=VOXELS.dtype)
    layout[:] = h5py.VirtualSource(str(folder / "gone.h5"), "raw", shape=VOXELS.shape)
    with h5py.File(folder / "v.h5", "w") as file:
        file.create_virtual_dataset("raw", layout)
    return folder / "v.h5"


def linked(kind: str, *target: str) -> Maker:
    def write(file) -> None:
        import h5py

        file["raw"] = getattr(h5py, kind)(*target)

    return hdf5_file(write, "raw")


def corrupt_chunk(folder: Path) -> Path:
    import h5py

    address = dataset(data=VOXELS, chunks=(4, 8, 8), compression="gzip")(folder)
    with h5py.File(address) as file:
        chunk = file["raw"].id.get_chunk_info(3)
    overwritten_place(address, chunk.byte_offset + chunk.size // 2)
    return address


def unknown_filter(folder: Path) -> Path:
    """Another number for the filter in the dataset's header, that of blosc."""
    address = dataset(data=VOXELS, chunks=(4, 8, 8), compression="gzip")(folder)
    place = address.read_bytes().index(b"\x01\x00\x08\x00")
    address.write_bytes(address.read_bytes()[:place] + (32001).to_bytes(2, "little") + address.read_bytes()[place + 2:])
    return address


def hdf5_bytes(new: Callable[[bytes], bytes]) -> Maker:
    def make(folder: Path) -> Path:
        address = hdf5(folder, VOXELS)
        address.write_bytes(new(address.read_bytes()))
        return address

    return make


BAD_HDF5: dict[str, tuple[Maker, str]] = {
    "empty": (hdf5_bytes(nothing), "signature"),
    "text": (hdf5_bytes(lambda old: b"hello" * 99), "signature"),
    "cut": (hdf5_bytes(lambda old: old[:-100]), "truncated"),
    "cut in half": (hdf5_bytes(cut), "truncated"),
    "never written": (dataset(shape=VOXELS.shape, dtype="u2"), "never written"),
    "no chunk written": (dataset(shape=VOXELS.shape, dtype="u2", chunks=(4, 8, 8)), "lacks 8 of 8 chunks"),
    "some chunks written": (hdf5_file(some_chunks), "lacks 4 of 8 chunks"),
    "grown without new chunks": (hdf5_file(grown), "lacks 12 of 20 chunks"),
    "voxels in a cut file": (outside, "other files"),
    "voxels of a file that is gone": (virtual, "other files"),
    "corrupt chunk": (corrupt_chunk, "filter returned failure"),
    "unknown filter": (unknown_filter, "filter 32001"),
    "another dataset": (dataset("nope", data=VOXELS), "holds no dataset 'nope'; it holds raw"),
    "a group": (hdf5_file(lambda file: file.create_dataset("g/raw", data=VOXELS), "g"), "it holds g/raw"),
    "no volume": (dataset(data=np.arange(9)), "holds 0 volumes"),
    "several volumes": (hdf5_file(lambda file: [file.create_dataset(name, data=VOXELS) for name in "ab"]), "holds 2 volumes"),
    "link to another file": (linked("ExternalLink", "gone.h5", "raw"), "link 'raw' to gone.h5/raw"),
    "link to nothing": (linked("SoftLink", "/gone"), "link 'raw' to /gone"),
    "text elements": (dataset(data=VOXELS.astype("S4")), "|S4"),
    "records": (dataset(data=np.zeros((2, 2, 2), [("a", "u1"), ("b", "u2")])), "elements of type"),
    "complex": (dataset(data=VOXELS.astype(np.complex64)), "complex64"),
    "long floats": (dataset(data=VOXELS.astype(np.longdouble)), "64 bits"),
    "no axes": (dataset("raw", data=5), "0 axes"),
    "five axes": (dataset(data=VOXELS[None, None]), "5 axes"),
    "no voxel": (dataset(shape=(0, 3, 4), dtype="u1"), "no voxel"),
}

# --- N5 and precomputed ------------------------------------------------------------------------------------------------------------------


def chunk(new: Callable[[bytes], bytes] | None) -> Change:
    """Other bytes in one chunk, or no such chunk."""

    def change(address: Path) -> None:
        file = sorted(path for path in address.rglob("*") if path.is_file() and path.name not in ("attributes.json", "info"))[3]
        file.write_bytes(new(file.read_bytes())) if new else file.unlink()

    return change


def attributes(**entries) -> Maker:
    return changed(n5, with_json("attributes.json", lambda found: found.update(entries)))


def info(**entries) -> Maker:
    return changed(precomputed, with_json("info", lambda found: found.update(entries)))


def scale(**entries) -> Maker:
    return changed(precomputed, with_json("info", lambda found: found["scales"][0].update(entries)))


BAD_TENSORSTORE: dict[str, tuple[Maker, str]] = {
    "N5: missing chunk": (changed(n5, chunk(None)), "--missing-chunks zero"),
    "N5: empty chunk": (changed(n5, chunk(nothing)), "has size 0"),
    "N5: cut chunk": (changed(n5, chunk(cut)), "damaged"),
    "N5: zeros for a chunk": (changed(n5, chunk(zeroed)), "damaged"),
    "N5: more behind a chunk": (changed(n5, chunk(lambda old: old + b"more")), "damaged"),
    "N5: cut attributes": (changed(n5, content("attributes.json", cut)), "attributes.json is no JSON"),
    "N5: empty attributes": (changed(n5, content("attributes.json", nothing)), "attributes.json is no JSON"),
    "N5: no attributes": (changed(n5, without("attributes.json")), "metadata of a Zarr, N5"),
    "N5: five axes": (attributes(dimensions=[10, 12, 7, 1, 1], blockSize=[4] * 5), "5 axes"),
    "N5: more planes than chunks": (attributes(dimensions=[10, 12, 12]), "is missing"),
    "N5: negative length": (attributes(dimensions=[10, 12, -1]), "cannot be opened"),
    "N5: no voxel": (attributes(dimensions=[10, 12, 0]), "no voxel"),
    "N5: unknown type": (attributes(dataType="uint99"), "uint99"),
    "N5: another type": (attributes(dataType="uint8"), "damaged"),
    "N5: unknown compression": (attributes(compression={"type": "nope"}), "nope"),
    "precomputed: missing chunk": (changed(precomputed, chunk(None)), "--missing-chunks zero"),
    "precomputed: empty chunk": (changed(precomputed, chunk(nothing)), "received 0 bytes"),
    "precomputed: cut chunk": (changed(precomputed, chunk(cut)), "damaged"),
    "precomputed: more behind a chunk": (changed(precomputed, chunk(lambda old: old + b"more")), "damaged"),
    "precomputed: cut info": (changed(precomputed, content("info", cut)), "Invalid JSON"),
    "precomputed: empty info": (changed(precomputed, content("info", nothing)), "metadata of a Zarr, N5 or precomputed"),
    "precomputed: no scales": (info(scales=[]), "No scale"),
    "precomputed: another type": (info(data_type="uint8"), "damaged"),
    "precomputed: unknown encoding": (scale(encoding="nope"), "nope"),
    "precomputed: more planes than chunks": (scale(size=[10, 12, 12]), "is missing"),
    "precomputed: chunks elsewhere": (scale(key="gone"), "is missing"),
    "precomputed: nothing there": (lambda folder: f"precomputed://{folder}/v", "does not exist"),
    "precomputed: unknown address": (lambda folder: "precomputed://nope://v", "unsupported URL scheme"),
    "another address": (lambda folder: "n5://host/v", "is not an address"),
}

# --- NRRD and npy ------------------------------------------------------------------------------------------------------------------------


def in_file(write: Callable[[Path, np.ndarray], Path], new: Callable[[bytes], bytes]) -> Maker:
    return changed(write, lambda address: address.write_bytes(new(address.read_bytes())))


def header(write: Callable[[Path, np.ndarray], Path], old: bytes, new: bytes) -> Maker:
    def change(whole: bytes) -> bytes:
        assert whole.count(old) == 1
        return whole.replace(old, new)

    return in_file(write, change)


def raw_nrrd(folder: Path, array: np.ndarray) -> Path:
    import SimpleITK as sitk

    sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / "v.nrrd"))
    return folder / "v.nrrd"


def detached(write: Callable[[Path, np.ndarray], Path]) -> Callable[[Path, np.ndarray], Path]:
    """The header in one file, the voxels in another."""

    def make(folder: Path, array: np.ndarray) -> Path:
        fields, _, voxels = write(folder, array).read_bytes().partition(b"\n\n")
        (folder / "v.nhdr").write_bytes(fields + b"\ndata file: voxels\n")
        (folder / "voxels").write_bytes(voxels)
        return folder / "v.nhdr"

    return make


def in_voxels(new: Callable[[bytes], bytes]) -> Change:
    return lambda address: address.with_name("voxels").write_bytes(new(address.with_name("voxels").read_bytes()))


def flipped_near_the_end(old: bytes) -> bytes:
    return old[:-100] + bytes([old[-100] ^ 255]) + old[-99:]


def saved(array: np.ndarray) -> Maker:
    return lambda folder: npy(folder, array)


def archive(folder: Path) -> Path:
    np.savez(folder / "v.npz", VOXELS)
    return (folder / "v.npz").rename(folder / "v.npy")


def pickled(folder: Path) -> Path:
    (folder / "v.npy").write_bytes(pickle.dumps(VOXELS))
    return folder / "v.npy"


SIZES = b"sizes: 10 12 7"
DIRECTIONS = b"space directions: (1,0,0) (0,1,0)"
COMPLEX = {b"type: unsigned short": b"type: float", b"dimension: 3": b"dimension: 4", SIZES: b"sizes: 2 5 6 7",
           b"directions: (": b"directions: none (", b"kinds: domain": b"kinds: complex domain"}


def as_complex(whole: bytes) -> bytes:
    for old, new in COMPLEX.items():
        whole = whole.replace(old, new, 1)
    return whole


BAD_NRRD: dict[str, tuple[Maker, str]] = {
    "empty": (in_file(nrrd, nothing), "EOF"),
    "a web page": (in_file(nrrd, lambda old: b"<!DOCTYPE html>"), "not a readable NRRD"),
    "cut": (in_file(nrrd, lambda old: old[:-100]), "truncated"),
    "cut in the header": (in_file(nrrd, lambda old: old[:100]), "v.nrrd"),
    "cut, raw": (in_file(raw_nrrd, lambda old: old[:-1]), "1679 bytes of voxels"),
    "without the checksum": (in_file(nrrd, lambda old: old[:-8]), "truncated"),
    "damaged": (in_file(nrrd, flipped_near_the_end), "damaged"),
    "more planes than it holds": (header(nrrd, SIZES, b"sizes: 10 12 9"), "promises 2160"),
    "fewer planes than it holds": (header(nrrd, SIZES, b"sizes: 10 12 5"), "promises 1200"),
    "fewer planes than it holds, raw": (header(raw_nrrd, SIZES, b"sizes: 10 12 5"), "promises 1200"),
    "an axis of 0": (header(nrrd, SIZES, b"sizes: 10 12 0"), "not a readable NRRD"),
    "beyond any disk": (header(nrrd, SIZES, b"sizes: 100000 100000 100000"), "promises 2000000000000000"),
    "another type": (header(nrrd, b"type: unsigned short", b"type: double"), "promises 6720"),
    "unknown type": (header(nrrd, b"type: unsigned short", b"type: voxel"), "voxel"),
    "complex": (in_file(raw_nrrd, as_complex), "complex"),
    "another encoding": (header(nrrd, b"encoding: gzip", b"encoding: raw"), "bytes of voxels"),
    "named gzip": (header(raw_nrrd, b"encoding: raw", b"encoding: gzip"), "Not a gzipped file"),
    "bzip2": (header(nrrd, b"encoding: gzip", b"encoding: bzip2"), "encoding bzip2"),
    "direction of length 0": (header(nrrd, DIRECTIONS, b"space directions: (0,0,0) (0,1,0)"), "v.nrrd"),
    "two directions alike": (header(nrrd, DIRECTIONS, b"space directions: (1,0,0) (1,0,0)"), "sheared"),
    "sheared": (header(nrrd, DIRECTIONS, b"space directions: (1,0,0) (0.3,1,0)"), "sheared"),
    "four axes": (in_file(raw_nrrd, lambda old: as_complex(old).replace(b"complex", b"domain").replace(b"none", b"(0,0,1)")), "v.nrrd"),
    "no voxels beside the header": (changed(detached(nrrd), lambda address: address.with_name("voxels").unlink()), "voxels"),
    "cut voxels beside the header": (changed(detached(nrrd), in_voxels(cut)), "truncated"),
    "cut raw voxels beside the header": (changed(detached(raw_nrrd), in_voxels(cut)), "840 bytes of voxels"),
    "damaged voxels beside the header": (changed(detached(nrrd), in_voxels(flipped_near_the_end)), "damaged"),
}

BAD_NPY: dict[str, tuple[Maker, str]] = {
    "empty": (in_file(npy, nothing), "magic string"),
    "text": (in_file(npy, lambda old: b"hello" * 40), "magic string"),
    "cut": (in_file(npy, lambda old: old[:-1]), "v.npy"),
    "cut in the header": (in_file(npy, lambda old: old[:60]), "v.npy"),
    "two arrays": (in_file(npy, lambda old: old + old), "its header promises 1808"),
    "more planes than it holds": (header(npy, b"(7, 12, 10)", b"(9, 12, 10)"), "v.npy"),
    "fewer planes than it holds": (header(npy, b"(7, 12, 10)", b"(5, 12, 10)"), "its header promises"),
    "beyond any disk": (header(npy, b"(7, 12, 10), }   ", b"(9999999,99999), }"), "v.npy"),
    "negative length": (header(npy, b"(7, 12, 10)", b"(-7, 12,10)"), "v.npy"),
    "unclosed header": (header(npy, b", }", b",  "), "v.npy"),
    "another version": (header(npy, b"NUMPY\x01", b"NUMPY\x09"), "version"),
    "objects": (saved(np.array([[[None, 1]]], object)), "Python objects"),
    "a pickle": (pickled, "magic string"),
    "an archive": (archive, "magic string"),
    "records": (saved(np.zeros((2, 3, 4), [("a", "u1")])), "elements of type"),
    "text elements": (saved(np.zeros((2, 3, 4), "U3")), "<U3"),
    "dates": (saved(np.zeros((2, 3, 4), "M8[s]")), "datetime64"),
    "complex": (saved(VOXELS.astype(np.complex64)), "complex64"),
    "no axes": (saved(np.array(5)), "0 axes"),
    "five axes": (saved(VOXELS[None, None]), "5 axes"),
    "no voxel": (saved(np.zeros((0, 3, 4))), "no voxel"),
}

TABLES = {"Zarr": BAD_ZARR if HAS_ZARR_3 else {}, "HDF5": BAD_HDF5, "tensorstore": BAD_TENSORSTORE, "NRRD": BAD_NRRD, "npy": BAD_NPY}
BAD = {f"{kind}: {what}": entry for kind, table in TABLES.items() for what, entry in table.items()}


@pytest.mark.parametrize("what", BAD)
def test_bad_volume_is_refused(tmp_path, what):
    make, words = BAD[what]
    assert words in sentence_of(make(tmp_path))


@pytest.mark.parametrize("what", BAD)
def test_bad_volume_ends_a_conversion_in_one_sentence(tmp_path, nnunet_folders, capsys, what):
    make, words = BAD[what]
    (tmp_path / "in").mkdir()
    assert words in converted_in_vain(capsys, nnunet_folders, make(tmp_path / "in"))


@pytest.mark.skipif(not HAS_ZARR_3, reason="zarr 3 needs Python 3.11")
def test_shape_beyond_any_disk(tmp_path, nnunet_folders, capsys):
    address = changed(v3, with_json(META, lambda meta: meta.update(shape=[10**8] * 3)))(tmp_path)
    assert "1000 or more of" in sentence_of(address)
    said = refused(capsys, "--image", address, "--label", address, "--labels", "1=cell", *SPACING)
    assert "cannot cut shape (100000000, 100000000, 100000000)" in said and not list(nnunet_folders.raw.iterdir())


# --- what looks odd and is right ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not HAS_ZARR_3, reason="zarr 3 needs Python 3.11")
@pytest.mark.parametrize("location", ["start", "end"])
def test_only_the_chunks_of_the_region_must_be_in_the_shard(tmp_path, location):
    import zarr
    from zarr.codecs import ShardingCodec

    codec = ShardingCodec(chunk_shape=(4, 8, 8), index_location=location)
    stored = zarr.create(store=str(tmp_path / "v.zarr"), shape=VOXELS.shape, chunks=(4, 16, 16), dtype=VOXELS.dtype, codecs=[codec],
                         zarr_format=3)
    holed = VOXELS.copy()
    holed[:4, 8:, :8] = 0
    stored[:] = holed
    volume = open_volume(tmp_path / "v.zarr")
    for region in ((slice(0, 7), slice(0, 8), slice(0, 10)), (slice(0, 4), slice(8, 12), slice(8, 10)),
                   (slice(4, 7), slice(0, 12), slice(0, 9))):
        np.testing.assert_array_equal(volume.read(region), holed[region])
    with pytest.raises(ValueError, match="lacks 1 of 2 chunks of its shard c/0/0/0"):
        volume.read((slice(3, 7), slice(5, 9), slice(0, 8)))
    np.testing.assert_array_equal(open_volume(tmp_path / "v.zarr", missing_are_zero=True).read(), holed)


@pytest.mark.skipif(not HAS_ZARR_3, reason="zarr 3 needs Python 3.11")
@pytest.mark.parametrize("write", [scaled(0, 1, 1), scaled(1e400, 1, 1), image(lambda metadata: metadata["axes"][0].update(unit="parsec")),
                                   image(lambda metadata: metadata["axes"][0].update(unit=5))])
def test_voxel_size_that_is_none_is_asked_for(tmp_path, write):
    volume = open_volume(write(tmp_path))
    assert volume.spacing is None
    np.testing.assert_array_equal(volume.read(), VOXELS)


@pytest.mark.parametrize("sizes", [[0, 1, 1], [np.nan, 1, 1], [np.inf, 1, 1], "thin", [1j, 1, 1], [1, 1]])
def test_voxel_size_of_hdf5_that_is_none_is_asked_for(tmp_path, sizes):
    address = hdf5_file(lambda file: file.create_dataset("raw", data=VOXELS).attrs.update(resolution=sizes))(tmp_path)
    assert open_volume(address).spacing is None


@pytest.mark.parametrize("sizes", [["a", 1, 1], [None, 1, 1], [0, 1, 1], {"dimensions": [1, 1, 1], "unit": 5}, 3])
def test_voxel_size_of_n5_that_is_none_is_asked_for(tmp_path, sizes):
    assert open_volume(attributes(pixelResolution=sizes)(tmp_path)).spacing is None


def test_dataset_behind_a_link_names_both_files(tmp_path):
    import h5py

    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["raw"] = VOXELS
    volume = open_volume(linked("ExternalLink", "other.h5", "raw")(tmp_path))
    np.testing.assert_array_equal(volume.read(), VOXELS)
    assert [source.file.name for source in volume.sources()] == ["v.h5", "other.h5"]


def test_detached_nrrd_names_both_files(tmp_path):
    volume = open_volume(detached(nrrd)(tmp_path, VOXELS))
    np.testing.assert_array_equal(volume.read(), VOXELS)
    assert [source.file.name for source in volume.sources()] == ["v.nhdr", "voxels"]


def test_whatever_byte_order_is_read_in_that_of_the_machine(tmp_path):
    volume = open_volume(npy(tmp_path, VOXELS.astype(">u2")))
    assert volume.dtype.isnative and volume.read().dtype.isnative
    np.testing.assert_array_equal(volume.read(), VOXELS)


# --- any damage --------------------------------------------------------------------------------------------------------------------------


def gzip_hdf5(folder: Path, array: np.ndarray) -> Path:
    import h5py

    with h5py.File(folder / "v.h5", "w") as file:
        file.create_dataset("raw", data=array, chunks=(4, 8, 8), compression="gzip")
    return folder / "v.h5"


def zarr_options() -> dict[str, Callable[[Path, np.ndarray], Path]]:
    import numcodecs
    from zarr.codecs import BloscCodec, GzipCodec

    gzip = GzipCodec()
    return {
        "Zarr v2, zstd": v2,
        "Zarr v2, zlib": zarr_array(2, compressors=numcodecs.Zlib()),
        "Zarr v2, blosc": zarr_array(2, compressors=numcodecs.Blosc()),
        "Zarr v2, raw": zarr_array(2, compressors=None),
        "Zarr v3, zstd": v3,
        "Zarr v3, gzip": zarr_array(3, compressors=gzip),
        "Zarr v3, blosc": zarr_array(3, compressors=BloscCodec()),
        "Zarr v3, raw": zarr_array(3, compressors=None),
        "sharded Zarr, zstd": sharded,
        "sharded Zarr, gzip": zarr_array(3, shards=(4, 16, 16), compressors=gzip),
    }


FORMATS: dict[str, Callable[[Path, np.ndarray], Path]] = {
    **(zarr_options() if HAS_ZARR_3 else {}), "HDF5": hdf5, "HDF5, gzip": gzip_hdf5, "N5, gzip": n5, "precomputed, raw": precomputed,
    "NRRD, gzip": nrrd, "NRRD, raw": raw_nrrd, "detached NRRD, gzip": detached(nrrd), "detached NRRD, raw": detached(raw_nrrd), "npy": npy,
}
# only these keep a checksum of the voxels; a changed voxel in the others is a voxel like any other
CHECKED = [name for name in FORMATS if name.endswith(("gzip", "zlib")) and not name.startswith("HDF5")]


def files_of(address: Path) -> list[Path]:
    folder = address if address.is_dir() else address.parent
    return sorted(path for path in folder.rglob("*") if path.is_file() and (address.is_dir() or path.name in (address.name, "voxels")))


@pytest.mark.parametrize("kind", FORMATS)
def test_no_cut_volume_is_read_as_something_else(tmp_path, kind):
    address = FORMATS[kind](tmp_path, VOXELS)
    files = files_of(address)
    generator = np.random.default_rng(0)
    refusals = 0
    for _ in range(30):
        file = files[generator.integers(len(files))]
        whole = file.read_bytes()
        file.write_bytes(whole[: generator.integers(len(whole))])
        refusals += is_whole_or_refused(address, VOXELS)
        file.write_bytes(whole)
    assert refusals > 20


@pytest.mark.parametrize("kind", CHECKED)
def test_no_damaged_voxels_are_read(tmp_path, kind):
    address = FORMATS[kind](tmp_path, VOXELS)
    # not the metadata, which are believed where nothing contradicts them
    files = [file for file in files_of(address) if file.suffix not in (".json", ".nhdr") and not file.name.startswith(".z")]
    generator = np.random.default_rng(1)
    refusals = 0
    for _ in range(40):
        file = files[generator.integers(len(files))]
        whole = file.read_bytes()
        start = whole.index(b"\n\n") + 2 if file.suffix == ".nrrd" else 0
        overwritten_place(file, int(generator.integers(start, len(whole))), by=int(generator.integers(1, 256)))
        refusals += is_whole_or_refused(address, VOXELS)
        file.write_bytes(whole)
    assert refusals > 25


@pytest.mark.parametrize("kind", FORMATS)
def test_any_damage_is_a_sentence_or_a_volume(tmp_path, kind):
    address = FORMATS[kind](tmp_path, VOXELS)
    files = files_of(address)
    generator = np.random.default_rng(2)
    for _ in range(40):
        file = files[generator.integers(len(files))]
        whole = file.read_bytes()
        for _ in range(generator.integers(1, 4)):
            overwritten_place(file, int(generator.integers(min(len(whole), 2000))), by=int(generator.integers(1, 256)))
        try:
            volume = open_volume(address)
            assert volume.read().shape == volume.shape
        except (ValueError, OSError) as error:
            assert "v" in str(error) and "\n" not in str(error)
        file.write_bytes(whole)
