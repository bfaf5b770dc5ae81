"""A prediction as a neuroglancer precomputed volume, with every level of its pyramid; needs the extra `precomputed` (tensorstore)."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_neuro.blocks import tile
from nnunet_neuro.predict.store import LABELS, LabelStore
from nnunet_neuro.raw_formats import write_json

_NANOMETRES = {"micrometer": 1e3, "millimeter": 1e6}
_CHUNK = 64
_BLOCK = 4 * _CHUNK  # read at once: 64 MB as 32-bit labels


def write_precomputed(store: LabelStore, folder: Path, *, name: str = LABELS, channel: int = 0, progress: bool = True) -> None:
    """Write the levels that are there, the finest first; labels as a segmentation with the names of the classes.

    Args:
        store: with all chunks of the array.
        folder: to make.
        name: "labels" or a further array.
        channel: of an array with channels.
        progress: show a progress bar on stderr.

    Raises:
        ValueError: tensorstore is not installed.
    """
    from tqdm import tqdm

    further = store.layout.array(name)
    spacings = store.spacings(name)
    volumes = [store.volumes(name, level=level)[channel] for level in range(len(spacings))]
    regions = [tile(volume.shape, [_BLOCK] * 3) for volume in volumes]
    segmentation = further is None or further.labels
    with tqdm(total=sum(map(len, regions)), desc="writing precomputed", unit="block", disable=not progress, file=sys.stderr) as bar:
        for volume, spacing, parts in zip(volumes, spacings, regions):
            target = _open_scale(folder, volume.shape, _resolution(spacing, store.layout.unit), volume.dtype, segmentation)
            for region in parts:
                voxels = volume.read(region).astype(target.dtype.numpy_dtype, copy=False)
                target[tuple(region[::-1])] = voxels.transpose(2, 1, 0)[..., None]
                bar.update()
    if segmentation and further is None and store.layout.classes:
        _name_segments(folder, store.layout.classes)


def segment_properties(classes: Mapping[str, int]) -> dict[str, Any]:
    """Names of the classes as neuroglancer shows them in its list of segments."""
    names = {str(value): label for label, value in classes.items() if value}
    return {"@type": "neuroglancer_segment_properties",
            "inline": {"ids": list(names), "properties": [{"id": "label", "type": "label", "values": list(names.values())}]}}


def _open_scale(folder: Path, shape: tuple[int, ...], resolution: list[float], dtype: np.dtype, segmentation: bool) -> Any:
    try:
        import tensorstore
    except ImportError as error:
        raise ValueError("writing a precomputed volume needs tensorstore; install it with: pip install "
                         "'nnunet_neuro[precomputed]'") from error
    scale: dict[str, Any] = {"size": list(shape[::-1]), "resolution": resolution, "chunk_size": [_CHUNK] * 3, "encoding": "raw"}
    if segmentation:  # knows 32 and 64 bits only
        data_type = "uint64" if dtype.itemsize > 4 else "uint32"
        scale |= {"encoding": "compressed_segmentation", "compressed_segmentation_block_size": [8, 8, 8]}
    else:
        data_type = "float32" if dtype.kind == "f" else str(dtype)
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": str(folder.absolute())},
        "multiscale_metadata": {"data_type": data_type, "num_channels": 1, "type": "segmentation" if segmentation else "image"},
        "scale_metadata": scale,
        "store_data_equal_to_fill_value": True,  # a chunk left out could not be told from a lost one
    }
    return tensorstore.open(spec, create=True, open=True).result()


def _resolution(spacing: tuple[float, ...], unit: str | None) -> list[float]:
    """(x, y, z) in nanometres."""
    return [float(f"{size * _NANOMETRES.get(unit or '', 1.0):.9g}") for size in spacing[::-1]]


def _name_segments(folder: Path, classes: Mapping[str, int]) -> None:
    (folder / "classes").mkdir()
    write_json(folder / "classes" / "info", segment_properties(classes))
    write_json(folder / "info", {**json.loads((folder / "info").read_text(encoding="utf-8")), "segment_properties": "classes"})
