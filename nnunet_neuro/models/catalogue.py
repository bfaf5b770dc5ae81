"""The list of models: what ships with the project, and what a user adds."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

SHIPPED = Path(__file__).with_name("models.json")
# further files of the same form, as many as there are, separated as in PATH
VARIABLE = "NNNEURO_MODELS"

_NAME = re.compile(r"[a-z0-9]+(?:[_-][a-z0-9]+)*")
_DATASET = re.compile(r"Dataset\d{3}_[\w.+-]+", re.ASCII)
_MODEL = re.compile(r"[\w.+-]+?__[\w.+-]+?__[\w.+-]+", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ADDRESS = re.compile(r"https?://\S+")


@dataclass(frozen=True)
class Score:
    """A measure of one class on data that was in no training.

    Attributes:
        measure: name, as `nnneuro_evaluate` has it.
        label: the class.
        value: the model's.
        interval: ends of its confidence interval.
        stock: what nnU-Net's default trainer reached with the same data, plan and length; None where the model is that training.
        stock_interval: ends of its confidence interval.
    """

    measure: str
    label: str
    value: float
    interval: tuple[float, float]
    stock: float | None = None
    stock_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class ModelEntry:
    """A model and its card. What an entry of a user leaves out is empty.

    Attributes:
        name: the word for commands.
        summary: what it segments, in one line.
        dataset: folder in nnUNet_results that it is installed to, `DatasetNNN_Name`.
        model: folder in that one, `TRAINER__PLANS__CONFIGURATION`.
        licence: of the weights.
        bytes: size of its files, or of the archive.
        folder: the model folder where it is on this machine already; None for one that is downloaded.
        files: SHA-256 of each file of `folder`, by its path in there.
        url: address of nnU-Net's model zip; None for one that has a folder.
        sha256: of that zip.
        data: what it was trained on.
        data_licence: of that.
        citation: of that.
        trainer: class, and what it stands for.
        plan: planner, patch, batch and size of the network.
        training: fold, length.
        hardware: what it was trained on.
        time: how long that took.
        date: when.
        seed: of the training.
        commands: lines that train it again.
        held_out: what the scores were measured on.
        scores: of each class.
        intervals: how the confidence intervals were made.
        comparison: what stock nnU-Net's scores beside it are.
        limits: what it is not for.
        notes: anything else.
    """

    name: str
    summary: str
    dataset: str
    model: str
    licence: str
    bytes: int
    folder: Path | None = None
    files: Mapping[str, str] | None = None
    url: str | None = None
    sha256: str | None = None
    data: str = ""
    data_licence: str = ""
    citation: str = ""
    trainer: str = ""
    plan: str = ""
    training: str = ""
    hardware: str = ""
    time: str = ""
    date: str = ""
    seed: int | None = None
    commands: tuple[str, ...] = ()
    held_out: str = ""
    scores: tuple[Score, ...] = ()
    intervals: str = ""
    comparison: str = ""
    limits: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @cached_property
    def headline(self) -> str:
        """The first measure, averaged over the classes, such as `Dice 0.865`; a dash without scores."""
        values = [score.value for score in self.scores if score.measure == self.scores[0].measure]
        return f"{self.scores[0].measure} {sum(values) / len(values):.3f}" if values else "–"

    @property
    def size(self) -> str:
        """Such as `9.0 MB`."""
        return f"{self.bytes / 1e6:.1f} MB"


def catalogue() -> dict[str, ModelEntry]:
    """All models by name: what ships, then those of the files that $NNNEURO_MODELS names.

    Raises:
        FileNotFoundError: a file that is named is not there.
        ValueError: a file that does not describe models, or a name that is there twice.
    """
    found: dict[str, ModelEntry] = {}
    added = [Path(name).expanduser() for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name.strip()]
    for path in (SHIPPED, *added):
        for entry in read_entries(path):
            if entry.name in found:
                raise ValueError(f"{path} names the model {entry.name!r}, which is listed already; give it another name")
            found[entry.name] = entry
    return found


def find(name: str) -> ModelEntry:
    """The model of that name.

    Raises:
        ValueError: there is none; the message lists the names.
    """
    entries = catalogue()
    if name not in entries:
        raise ValueError(f"no model {name!r} is listed; choose one of {', '.join(sorted(entries))}")
    return entries[name]


def read_entries(path: Path) -> list[ModelEntry]:
    """The models that a file lists; folders in it are relative to the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not of that form.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no list of models {path}; correct the environment variable {VARIABLE}, or unset it") from error
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); expected a list of models such as {SHIPPED}") from error
    listed = content.get("models") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise ValueError(f'{path} lists no models; expected {{"models": [...]}} as in {SHIPPED}')
    return [_entry(one, path) for one in listed]


def _entry(facts: dict[str, Any], path: Path) -> ModelEntry:
    where = f"the model {facts.get('name')!r} in {path}"
    known = {field.name for field in fields(ModelEntry)}
    if strange := sorted(set(facts) - known):
        raise ValueError(f"{where} has the unknown field {strange[0]!r}; known are {', '.join(sorted(known))}")
    if missing := [field.name for field in fields(ModelEntry) if field.default is MISSING and field.name not in facts]:
        raise ValueError(f"{where} lacks {', '.join(missing)}; fill in every field as in {SHIPPED}")
    try:
        values = {**facts, "scores": tuple(_score(one) for one in facts.get("scores", ())),
                  **{name: _lines(name, facts.get(name, ())) for name in ("commands", "limits", "notes")},
                  "folder": path.parent.joinpath(facts["folder"]).resolve() if facts.get("folder") else None}
        entry = ModelEntry(**values)
        _check(entry)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{where} is not filled in as expected ({error}); compare it with {SHIPPED}") from error
    except ValueError as error:
        raise ValueError(f"{where} {error}") from error
    return entry


def _score(facts: dict[str, Any]) -> Score:
    """`{"measure": "Dice", "label": "axon", "value": [0.9, 0.8, 0.95], "stock": [0.89, 0.8, 0.95]}`: value, and ends of its interval."""
    if strange := sorted(set(facts) - {"measure", "label", "value", "stock"}):
        raise ValueError(f"has a score with the unknown field {strange[0]!r}; known are measure, label, value, stock")
    value, low, high = map(float, facts["value"])
    stock = tuple(map(float, facts["stock"])) if facts.get("stock") else None
    for middle, first, last in ((value, low, high), *([stock] if stock else [])):
        if not first <= middle <= last:
            raise ValueError(f"has the score {middle} outside its confidence interval {first} to {last}; expected [value, low, high]")
    return Score(facts["measure"], facts["label"], value, (low, high), stock and stock[0], stock and stock[1:])


def _lines(name: str, lines: Any) -> tuple[str, ...]:
    if not isinstance(lines, (list, tuple)) or not all(isinstance(line, str) for line in lines):
        raise ValueError(f"has {name} that are no list of lines")
    return tuple(lines)


def _check(entry: ModelEntry) -> None:
    """The text fields, and that there is one way to the weights, with hashes.

    Raises:
        ValueError: the rest of a sentence that begins with the entry.
    """
    texts = [field.name for field in fields(ModelEntry) if field.type == "str"]
    if wrong := [name for name in texts if not isinstance(getattr(entry, name), str)]:
        raise ValueError(f"has {wrong[0]} that is no text")
    patterns = ((entry.name, _NAME, "name such as ls_axons"), (entry.dataset, _DATASET, "dataset such as Dataset701_Axons"),
                (entry.model, _MODEL, "model such as nnUNetTrainer__nnUNetPlans__3d_fullres"))
    for value, pattern, expected in patterns:
        if not pattern.fullmatch(value):
            raise ValueError(f"is called {value!r}; expected a {expected}")
    if not isinstance(entry.bytes, int) or entry.bytes <= 0:
        raise ValueError(f"has {entry.bytes!r} bytes; expected a whole number")
    if (entry.folder is None) == (entry.url is None):
        raise ValueError("needs either a folder with files, or a url with sha256")
    if entry.url and not _ADDRESS.fullmatch(entry.url):
        raise ValueError(f"has the url {entry.url!r}; expected one that begins with https://")
    hashes = [entry.sha256] if entry.url else list((entry.files or {}).values())
    if not hashes or not all(isinstance(one, str) and _SHA256.fullmatch(one) for one in hashes):
        raise ValueError("needs the sha256 of its zip, or of each of its files, as 64 digits 0-9a-f")
