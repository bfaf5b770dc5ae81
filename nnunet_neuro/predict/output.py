"""The output of a run on disk: opened for a run of this very identity, recognised when it is finished.

A run whose output is another format than OME-Zarr works in a store beside it, which goes when the summary is there. So whoever finds no
store looks for a summary.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_neuro.predict.complete import leftovers_beside, remove, writing
from nnunet_neuro.predict.job import DISAGREEMENT, ENTROPY, PROBABILITIES
from nnunet_neuro.predict.request import PredictionRequest
from nnunet_neuro.predict.run_state import RunState
from nnunet_neuro.predict.store import LABELS, FurtherArray, LabelStore, StoreLayout
from nnunet_neuro.raw_formats import write_json
from nnunet_neuro.volumes import Volume

if TYPE_CHECKING:
    from nnunet_neuro.predict.model import TrainedModel

INSTANCES = "instances"
_STATE = ".nnneuro"
_EXPORTS = "exports.json"


def identity_of(request: PredictionRequest, models: Sequence[TrainedModel], spacing: Sequence[float] | None) -> dict[str, Any]:
    """Everything that makes a difference to the stored blocks, as JSON values; a run is continued only with the same."""
    options = asdict(request.options)
    options["device"] = options["device"].partition(":")[0]
    identity = {"model": [model.hash for model in models], "input": request.channels.identity(), "spacing": spacing,
                "format": request.kind or "ome-zarr", "chunk": request.chunk, "stored_probabilities": request.probability_dtype, **options}
    return json.loads(json.dumps(identity))


def layout_of(request: PredictionRequest, model: TrainedModel, volumes: Sequence[Volume], spacing: Sequence[float] | None, *,
              several: bool) -> StoreLayout:
    """What the store of a run is made of.

    Args:
        request: what is asked for.
        model: the first of the models.
        volumes: the channels.
        spacing: (z, y, x) voxel size, or None.
        several: whether folds or models can disagree.
    """
    options, regions = request.options, model.label_manager.has_regions
    names = model.classes if regions else model.dataset_json["labels"]
    heads = tuple(name for name in names if name != "ignore" and not (regions and name == "background"))
    further = []
    if options.probabilities:
        further.append(FurtherArray(PROBABILITIES, request.probability_dtype, heads))
    if options.entropy:
        further.append(FurtherArray(ENTROPY, request.probability_dtype))
    if options.disagreement and several:
        further.append(FurtherArray(DISAGREEMENT, request.probability_dtype))
    roi = getattr(request.channels, "roi", None)
    return StoreLayout(volumes[0].shape, model.label_dtype, spacing, "millimeter" if volumes[0].affine is not None else "micrometer",
                       request.chunk, tuple(part[0] for part in roi) if roi else (0, 0, 0), model.classes, tuple(further))


def open_output(request: PredictionRequest, layout: StoreLayout, identity: Mapping[str, Any]) -> tuple[LabelStore, RunState]:
    """The store, and the state of the run within it; both are made, or belong to this very run.

    Raises:
        FileExistsError: something else is in the output's place.
        ValueError: a run with another identity is there; the sentence names what differs.
        OSError: the place cannot be written to.
    """
    path = request.store_path
    if not (path / _STATE).is_dir():
        _refuse_what_is_there(request, layout, identity)
        store = LabelStore.create_or_open(path, layout)
        return store, RunState.open(path / _STATE, identity)
    # first, because it names an option that changed
    state = RunState.open(path / _STATE, identity)
    return LabelStore.create_or_open(path, layout), state


def is_finished(request: PredictionRequest, identity: Mapping[str, Any]) -> bool:
    """Whether everything that is asked for was made by a run with this identity."""
    found = _summary(request)
    if found.get("identity") != identity or not request.output.exists():
        return False
    if request.kind is None and not (request.output / _STATE).is_dir():
        return False
    return not _lacking(request, found)


def made_by(request: PredictionRequest) -> dict[str, Any]:
    """For the summary: what was made besides the labels."""
    return {"instances": request.instances and asdict(request.instances), "preview": request.preview}


def exports_of(request: PredictionRequest, layout: StoreLayout) -> list[tuple[str, int, Path]]:
    """Array, channel and place of every file or folder that is exported, the labels last; none for OME-Zarr."""
    if request.kind is None:
        return []
    further = [*(one for one in layout.further if one.name != INSTANCES), *([FurtherArray(INSTANCES)] if request.instances else [])]
    return [*((one.name, channel, request.further_export(one.name, channel, name))
              for one in further for channel, name in enumerate(one.channels or ("",))), (LABELS, 0, request.output)]


def begin_exports(request: PredictionRequest, layout: StoreLayout, state: RunState) -> None:
    """Note in the state that what is exported was not there before; what is there from then on was made by this run.

    Raises:
        FileExistsError: something is there that this run did not make.
    """
    noted = state.folder / _EXPORTS
    exports = [str(path) for _, _, path in exports_of(request, layout)]
    begun = json.loads(noted.read_text(encoding="utf-8")) if noted.is_file() else []
    for path in exports:
        if path not in begun and Path(path).exists():
            raise FileExistsError(_taken(Path(path)))
    with writing(state.folder):
        write_json(noted, sorted({*begun, *exports}))


def remove_work(request: PredictionRequest, identity: Mapping[str, Any]) -> None:
    """Remove the store of a finished run that has another format, and what killed processes left of such removals."""
    if request.kind is None:
        return
    path = request.store_path
    with suppress(OSError, ValueError):
        # what has no metadata was put there by a process that was on its way when the store went
        if not (path / ".zattrs").is_file() or json.loads((path / _STATE / "identity.json").read_text(encoding="utf-8")) == identity:
            path.rename(path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial"))  # at once, for others who look for it
    for leftover in leftovers_beside(path):
        remove(leftover)


@contextmanager
def alone(request: PredictionRequest, say: Callable[[str], None]) -> Iterator[None]:
    """Only one process is in this block for one output; the others wait.

    The lock file goes when the block ends well. Who waited for it then holds a lock of no file, beside perhaps one who made a new file; so
    both look first whether the run is finished.
    """
    from filelock import FileLock, Timeout

    file = request.output.with_name(f".{request.output.name}.lock")
    lock = FileLock(file)
    with writing(file):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"another process completes {request.output} and holds {file.name}; this one waits until it is done")
            lock.acquire()
    try:
        yield
        file.unlink(missing_ok=True)
    finally:
        lock.release()


def _refuse_what_is_there(request: PredictionRequest, layout: StoreLayout, identity: Mapping[str, Any]) -> None:
    path = request.store_path
    if path.exists() and not (_is_empty_store(path) and LabelStore.open(path).layout == layout):
        raise FileExistsError(f"{path} exists already and is no prediction of this program, or its {_STATE} was removed; choose another "
                              "output, or remove it")
    if request.kind is not None and request.output.exists():
        found = _summary(request)
        before = found.get("identity") or {}
        differing = [key for key in before if before[key] != identity.get(key)]
        if differing:
            raise FileExistsError(f"{request.output} was made with another {' and '.join(differing)}; choose another output, or remove it")
        if before:
            raise FileExistsError(f"{request.output} was made without {_lacking(request, found)}; choose another output, or remove it")
    for _, _, one in exports_of(request, layout):
        if one.exists():
            raise FileExistsError(_taken(one))


def _is_empty_store(path: Path) -> bool:
    """As a process leaves it that was killed before it made the state."""
    return (path / "0" / ".zarray").is_file() and not any(child.is_dir() for child in (path / "0").iterdir())


def _summary(request: PredictionRequest) -> dict[str, Any]:
    try:
        found = json.loads(request.summary_path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("output") == str(request.output) else {}


def _lacking(request: PredictionRequest, found: Mapping[str, Any]) -> str:
    """What of the request a finished run has not made; empty for nothing."""
    made = found.get("made") or {}
    if request.instances and (made.get("instances") != asdict(request.instances) or not request.table_path.is_file()):
        return "these instances"
    if request.preview and not (made.get("preview") and request.preview_path.is_file()):
        return "a preview"
    return ""


def _taken(path: Path) -> str:
    return f"{path} exists already; choose another output, or remove it"
