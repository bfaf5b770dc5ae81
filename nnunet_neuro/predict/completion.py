"""What is made of finished labels: pyramids, instances, exports, a picture, a summary."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_neuro import __version__
from nnunet_neuro.predict.complete import remove
from nnunet_neuro.predict.output import INSTANCES, begin_exports, exports_of, made_by
from nnunet_neuro.predict.request import PredictionRequest
from nnunet_neuro.predict.run_state import RunState
from nnunet_neuro.predict.store import FurtherArray, LabelStore
from nnunet_neuro.predict.windows import Block
from nnunet_neuro.raw_formats import write_json
from nnunet_neuro.volumes import Volume

if TYPE_CHECKING:
    from nnunet_neuro.predict.model import TrainedModel


def complete(request: PredictionRequest, store: LabelStore, state: RunState, volumes: Sequence[Volume]) -> int | None:
    """Pyramids, instances, exports and picture of finished labels; each is kept where this run has made it already.

    Returns:
        The number of objects, or None where none were asked for.

    Raises:
        FileExistsError: something else is where an export goes.
        OSError: disk full or read-only; what is finished stays.
    """
    from nnunet_neuro.predict.exports import export
    from nnunet_neuro.predict.preview import write_preview
    from nnunet_neuro.predict.pyramid import build_pyramid

    if request.kind is not None:
        begin_exports(request, store.layout, state)
    objects = _write_instances(request, store, state) if request.instances else None
    store = LabelStore.open(store.path)
    if request.kind is None:
        for name in ("labels", *(one.name for one in store.layout.further)):
            build_pyramid(store, name, progress=request.progress)
    if request.preview:
        write_preview(volumes[0], store, request.preview_path, progress=request.progress)
    store.remove_leftovers()
    for name, channel, path in exports_of(request, store.layout):
        if not path.exists():
            export(store, path, request.kind, name=name, channel=channel, affine=volumes[0].affine, progress=request.progress)
    return objects


def summary(request: PredictionRequest, models: Sequence[TrainedModel], volumes: Sequence[Volume], state: RunState,
            blocks: Sequence[Block], identity: Mapping[str, Any]) -> dict[str, Any]:
    """What was computed from what, as JSON values.

    `sha256_of_voxels` is that of all arrays block by block, so it is equal for equal voxels in equal blocks.
    """
    reports = state.reports().values()
    windows, skipped = sum(report.windows for report in reports), sum(report.skipped for report in reports)
    return {
        "output": str(request.output), "input": [str(volume.path) for volume in volumes], "shape": list(volumes[0].shape),
        "models": [{"folder": str(model.folder), "folds": list(model.folds), "sha256": model.hash, "trainer": model.trainer_name}
                   for model in models],
        "options": {**asdict(request.options), "workers": request.workers, "memory": request.memory}, "made": made_by(request),
        "blocks": len(blocks), "voxels": math.prod(volumes[0].shape),
        "windows": windows, "windows_skipped": skipped, "share_skipped": skipped / max(1, windows + skipped),
        "seconds_of_blocks": round(sum(report.seconds for report in reports), 3),
        "sha256_of_voxels": _digest(state), "program": f"nnunet_neuro {__version__}",
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"), "identity": dict(identity),
    }


def _write_instances(request: PredictionRequest, store: LabelStore, state: RunState) -> int:
    from nnunet_neuro.components import Run, depth_landscape, label_components, label_watershed

    done = state.folder / "instances.json"
    wanted = asdict(request.instances)
    if done.is_file():
        found = json.loads(done.read_text(encoding="utf-8"))
        if found["options"] == wanted and request.table_path.is_file() and (store.path / INSTANCES).is_dir():
            return found["count"]
        _remove_other_instances(request, store, done)
    store = store.add(FurtherArray(INSTANCES, "uint64", labels=True))
    (labels,) = store.volumes()
    block = tuple(min(4, -(-length // part)) * part for length, part in zip(store.layout.shape, store.chunk))
    run = Run(state.folder / "objects", block, request.workers, request.progress, source=_digest(state))
    write = partial(store.write, name=INSTANCES)
    common = {"minimum_voxels": request.instances.minimum_voxels, "spacing": store.layout.voxel, "table": request.table_path,
              "unit": {"micrometer": "um", "millimeter": "mm"}.get(store.layout.unit or "", "voxel")}
    if request.instances.method == "components":
        objects = label_components(labels, write, run, **common)
    else:
        depth = request.instances.seed_depth or 2 * min(store.layout.voxel)
        objects = label_watershed(depth_landscape(labels, spacing=store.layout.voxel, depth=depth), write, run, **common)
    write_json(done, {"options": wanted, "count": len(objects)})
    return len(objects)


def _remove_other_instances(request: PredictionRequest, store: LabelStore, done: Path) -> None:
    """Those of other options, with their pyramid and export."""
    there = store.path / INSTANCES
    if there.exists():
        there.rename(store.path / f".{INSTANCES}.partial")  # at once; `remove_leftovers` deletes it
    for name, _, path in exports_of(request, store.layout):
        if name == INSTANCES:
            remove(path)
    done.unlink()


def _digest(state: RunState) -> str:
    """Of everything that was written, whatever order it was written in."""
    return hashlib.sha256("".join(report.digest for report in state.reports().values()).encode()).hexdigest()
