"""Neuroglancer's page on a prediction and its image; needs the extra `view`.

The page comes from the neuroglancer package, so that nothing is fetched from the internet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_neuro.colours import class_colour
from nnunet_neuro.predict.precomputed import segment_properties
from nnunet_neuro.predict.store import LABELS, LabelStore
from nnunet_neuro.viewer.server import DataServer, KeyReader
from nnunet_neuro.viewer.volume_zarr import VolumeZarr
from nnunet_neuro.volumes import Volume, open_channels

_METRES = {"micrometer": 1e-6, "millimeter": 1e-3}
# voxels along an edge of the part that decides the brightness of an image
_PROBE = 384
# pixels of a panel in which the whole volume is shown at first
_PANEL = 300


@dataclass(frozen=True)
class Page:
    """An open viewer.

    Attributes:
        url: of the page.
        data: server of the voxels; `data.address` can be given to other viewers, such as napari.
        viewer: the `neuroglancer.Viewer`, to change what is shown or take screenshots of an open page.
    """

    url: str
    data: DataServer
    viewer: Any

    def close(self) -> None:
        """Stop both servers."""
        import neuroglancer

        neuroglancer.stop()
        self.data.close()


def open_page(output: str | Path, image: str | Path | None = None, *, port: int = 0, log: Callable[[str, int], None] | None = None) -> Page:
    """Serve a prediction, and the image that it was made from, as a neuroglancer page on 127.0.0.1.

    An image of any format is shown, also one that is no Zarr: what the page asks for is read then. Probabilities and the like that the
    prediction holds are layers too, hidden at first.

    Args:
        output: OME-Zarr folder of the prediction.
        image: as `open_channels` takes it.
        port: of the page; the voxels come from the port after it. 0 for free ones.
        log: called with path and status of each request for voxels.

    Raises:
        FileNotFoundError: no prediction, or no image.
        ValueError: what is there is none, the image has another shape, or neuroglancer is not installed.
        OSError: a port is taken.
    """
    neuroglancer = _neuroglancer()
    store = LabelStore.open(output)
    channels = _image_channels(store, image)
    served: dict[str, Path | KeyReader] = {"prediction": store.path}
    if store.layout.classes:
        served["classes"] = _one_key("info", segment_properties(store.layout.classes))
    for number, channel in enumerate(channels):
        served[f"image{number}"] = VolumeZarr(channel, store.layout.voxel, store.layout.unit, f"image{number}")
    data = DataServer(served, port=port + 1 if port else 0, log=log)
    try:
        neuroglancer.set_server_bind_address("127.0.0.1", port)
        viewer = neuroglancer.Viewer()
        with viewer.txn() as state:
            _fill_state(state, store, channels, data.address)
    except BaseException:
        data.close()
        raise
    return Page(viewer.get_viewer_url(), data, viewer)


def _neuroglancer() -> Any:
    try:
        import neuroglancer
    except ImportError as error:
        raise ValueError("the viewer needs neuroglancer; install it with: pip install 'nnunet_neuro[view]'") from error
    return neuroglancer


def _image_channels(store: LabelStore, image: str | Path | None) -> tuple[Volume, ...]:
    if image is None:
        return ()
    channels = open_channels(image)
    least = tuple(first + length for first, length in zip(store.layout.corner, store.layout.shape))
    if len(channels[0].shape) != 3 or any(length < needed for length, needed in zip(channels[0].shape, least)):
        raise ValueError(f"{image} has shape {channels[0].shape}, but the prediction {store.path} needs one of {least} at least; give the "
                         "image that it was made from")
    return channels


def _one_key(name: str, content: dict[str, Any]) -> KeyReader:
    import json

    text = json.dumps(content).encode()
    return {name: text}.get


def _fill_state(state: Any, store: LabelStore, channels: tuple[Volume, ...], address: str) -> None:
    import neuroglancer

    layout = store.layout
    unit = _METRES.get(layout.unit or "")
    # x first, so that the upper left panel shows a plane as it was recorded
    state.dimensions = neuroglancer.CoordinateSpace(names=["x", "y", "z"], units=["m" if unit else ""] * 3,
                                                    scales=[size * (unit or 1.0) for size in layout.voxel[::-1]])
    for number, channel in enumerate(channels):
        low, high = _brightness(channel)
        state.layers.append(name=f"image {number}" if len(channels) > 1 else "image", visible=number == 0,
                            layer=neuroglancer.ImageLayer(source=f"zarr://{address}/image{number}/",
                                                          shader_controls={"normalized": {"range": [low, high]}}))
    for further in layout.further:
        source = f"zarr://{address}/prediction/{further.name}/"
        layer = neuroglancer.SegmentationLayer(source=source) if further.labels else neuroglancer.ImageLayer(source=source)
        state.layers.append(name=further.name, layer=layer, visible=False)
    sources = [f"zarr://{address}/prediction/"] + ([f"precomputed://{address}/classes/"] if layout.classes else [])
    values = [value for value in layout.classes.values() if value]
    state.layers.append(name=LABELS, layer=neuroglancer.SegmentationLayer(
        source=sources, segments=values, selected_alpha=0.6,
        segment_colors={value: class_colour(index) for index, value in enumerate(values)}))
    extent = max(length * size for length, size in zip(layout.shape, layout.voxel)) / min(layout.voxel)
    state.position = [first + length / 2 for first, length in zip(layout.corner[::-1], layout.shape[::-1])]
    state.cross_section_scale = extent / _PANEL
    state.projection_scale = 1.5 * extent
    state.layout = "4panel"


def _brightness(volume: Volume) -> tuple[float, float]:
    """What is shown black and white, from a part of the middle plane."""
    middle = [length // 2 for length in volume.shape]
    half = (0, _PROBE // 2, _PROBE // 2)
    region = tuple(slice(max(0, centre - more), min(centre + more + 1, length)) for centre, more, length in zip(middle, half, volume.shape))
    voxels = volume.read(region)
    finite = voxels[np.isfinite(voxels)] if voxels.dtype.kind == "f" else voxels
    low, high = np.percentile(finite, (0.5, 99.8)) if finite.size else (0.0, 1.0)
    return float(low), float(high) if high > low else float(low) + 1.0
