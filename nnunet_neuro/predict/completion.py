"""What is made of finished labels: pyramids, instances, exports, a picture, a summary."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

from nnunet_neuro import __version__
from nnunet_neuro.predict.request import PredictionRequest
from nnunet_neuro.predict.run_state import RunState
from nnunet_neuro.predict.store import FurtherArray, LabelStore
from nnunet_neuro.predict.windows import Block
from nnunet_neuro.raw_formats import write_json
from nnunet_neuro.volumes import Volume, strip_suffix

if TYPE_CHECKING:
    from nnunet_neuro.predict.model import TrainedModel

INSTANCES = "instances"


def complete(request: PredictionRequest, store: LabelStore, state: RunState, volumes: Sequence[Volume]) -> int | None:
    """Pyramids, instances, exports and picture of finished labels; each is kept where it is there already. Gives the number of objects."""
    from nnunet_neuro.predict.exports import export
    from nnunet_neuro.predict.preview import write_preview
    from nnunet_neuro.predict.pyramid import build_pyramid

    objects = _write_instances(request, store, state) if request.instances else None
    store = LabelStore.open(store.path)
    if request.kind is None:
        for name in ("labels", *(one.name for one in store.layout.further)):
            build_pyramid(store, name, progress=request.progress)
    if request.preview:
        write_preview(volumes[0], store, request.beside(".png"), progress=request.progress)
    store.remove_leftovers()
    if request.kind is not None:
        export(store, request.output, request.kind, affine=volumes[0].affine, progress=request.progress)
        for one in store.layout.further:
            for channel, ending in enumerate(one.channels or ("",)):
                name = f".{one.name}{ending and '_' + ending}{''.join(request.output.name[len(strip_suffix(request.output)):])}"
                if not request.beside(name).exists():
                    export(store, request.beside(name), request.kind, name=one.name, channel=channel, affine=volumes[0].affine,
                           progress=request.progress)
    return objects


def _write_instances(request: PredictionRequest, store: LabelStore, state: RunState) -> int:
    from nnunet_neuro.components import Run, depth_landscape, label_components, label_watershed

    table = request.beside(".objects.csv")
    done = state.folder / "instances.json"
    wanted = asdict(request.instances)
    if done.is_file():
        found = json.loads(done.read_text(encoding="utf-8"))
        if found["options"] == wanted and table.is_file():
            return found["count"]
    store = store.add(FurtherArray(INSTANCES, "uint64", labels=True))
    (labels,) = store.volumes()
    block = tuple(min(4, -(-length // part)) * part for length, part in zip(store.layout.shape, store.chunk))
    run = Run(state.folder / "objects", block, request.workers, request.progress, source=_digest(state))
    write = partial(store.write, name=INSTANCES)
    common = {"minimum_voxels": request.instances.minimum_voxels, "spacing": store.layout.voxel, "table": table,
              "unit": {"micrometer": "um", "millimeter": "mm"}.get(store.layout.unit or "", "voxel")}
    if request.instances.method == "components":
        objects = label_components(labels, write, run, **common)
    else:
        depth = request.instances.seed_depth or 2 * min(store.layout.voxel)
        objects = label_watershed(depth_landscape(labels, spacing=store.layout.voxel, depth=depth), write, run, **common)
    count = len(objects.columns()["id"])
    write_json(done, {"options": wanted, "count": count})
    return count


def _digest(state: RunState) -> str:
    """Of everything that was written, whatever order it was written in."""
    return hashlib.sha256("".join(report.digest for report in state.reports().values()).encode()).hexdigest()


def summary(request: PredictionRequest, models: Sequence[TrainedModel], volumes: Sequence[Volume], state: RunState,
            blocks: Sequence[Block]) -> dict[str, Any]:
    """What was computed from what, as JSON values."""
    reports = state.reports().values()
    windows, skipped = sum(report.windows for report in reports), sum(report.skipped for report in reports)
    return {
        "output": str(request.output), "input": [str(volume.path) for volume in volumes], "shape": list(volumes[0].shape),
        "models": [{"folder": str(model.folder), "folds": list(model.folds), "sha256": model.hash, "trainer": model.trainer_name}
                   for model in models],
        "options": {**asdict(request.options), "workers": request.workers, "memory": request.memory},
        "blocks": len(blocks), "voxels": math.prod(volumes[0].shape),
        "windows": windows, "windows_skipped": skipped, "share_skipped": skipped / max(1, windows + skipped),
        "seconds_of_blocks": round(sum(report.seconds for report in reports), 3),
        "sha256_of_voxels": _digest(state), "program": f"nnunet_neuro {__version__}",
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
