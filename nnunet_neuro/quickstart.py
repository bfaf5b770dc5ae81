"""The main road on the sample data: convert, train, find the best configuration, predict, evaluate.

Training starts from the shipped axon model, or, on request, from plans of its own and random weights with axial attention.

Every step is one plain command, printed before it runs. What is done stays done: a step is repeated only if its command or the
dataset changed, and a training that was interrupted goes on from its last checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nnunet_neuro.plain_commands import run_command
from nnunet_neuro.raw_dataset import NNUNET_FOLDERS
from nnunet_neuro.raw_formats import write_json

DATASET_ID = 701
DATASET = "Dataset701_Axons"
MODEL = "ls_axons"
CONFIGURATION = "3d_fullres"
FOLDS = ("0", "1")
SPACING = "3,3.25,3.25"


@dataclass(frozen=True)
class Step:
    """One plain command of the road.

    Attributes:
        title: what it does, for the user.
        command: program and arguments.
        makes: files that are there when it is done.
        environment: variables that only this command wants.
        resume: files of which one, if there, lets the command continue.
        continues: arguments that it then wants.
        always: run it in any case; it finds out itself what is to be done.
        clear: a folder of an older dataset's results that would be in the way; removed before the command runs, except to resume.
    """

    title: str
    command: tuple[str, ...]
    makes: tuple[Path, ...]
    environment: tuple[tuple[str, str], ...] = ()
    resume: tuple[Path, ...] = ()
    continues: tuple[str, ...] = ()
    always: bool = False
    clear: Path | None = None


@dataclass(frozen=True)
class Road:
    """How the folds are trained.

    Attributes:
        trainer, plans: names, as nnU-Net's commands want them.
        epochs: of each fold, where the user does not say.
    """

    trainer: str
    plans: str
    epochs: int


FINE_TUNED = Road("nnUNetTrainerFineTune", "nnUNetPlansZooFromLsAxons", 4)
FROM_SCRATCH = Road("nnUNetTrainerAxialAttention", "nnUNetPlansSmall", 14)


def quickstart_steps(folder: Path, *, device: str, epochs: int | None, iterations: int, from_scratch: bool = False) -> list[Step]:
    """The commands from raw cubes to the report.

    Args:
        folder: where everything is put.
        device: nnU-Net's `-device`: cuda, mps or cpu.
        epochs: training length of each fold; None for that of the road.
        iterations: iterations per epoch.
        from_scratch: plan and train from random weights with axial attention, in place of the shipped axon model.
    """
    sample = Path(__file__).parent / "sample_data" / "axons"
    road = FROM_SCRATCH if from_scratch else FINE_TUNED
    raw = folder / "raw" / DATASET
    model = folder / "results" / DATASET / f"{road.trainer}__{road.plans}__{CONFIGURATION}"
    predictions, report = folder / "predictions", folder / "report"
    epochs = epochs or road.epochs
    length = (("NNNEURO_ITERATIONS", str(iterations)), ("NNNEURO_VAL_ITERATIONS", "4"))
    if device == "cpu":  # on two cores a second augmentation worker slows the network: an epoch took 16.5 s, not 14.3
        length += (("nnUNet_n_proc_DA", "1"),)
    chosen = ("-tr", road.trainer, "-p", road.plans)
    predicted = [f"{path.parents[2].name}_val_{path.stem[-3:]}.tif" for path in sorted(sample.glob("*/val/volumes/*.tiff"))]
    training = _from_scratch(folder, model, device, epochs, length) if from_scratch else _fine_tuned(model, device, epochs, length)

    return [
        Step("Convert the axon cubes of two brains into an nnU-Net dataset",
             ("nnneuro_convert", "axon", f"trailmap={sample / 'trailmap'}", f"dlmbmap={sample / 'dlmbmap'}", "--spacing", SPACING,
              "-d", str(DATASET_ID)), (raw / "dataset.json",), always=True),
        *training,
        Step("Find the best configuration and its postprocessing",
             ("nnUNetv2_find_best_configuration", str(DATASET_ID), "-c", CONFIGURATION, "-f", *FOLDS, *chosen,
              "--disable_ensembling", "-np", "2"), (folder / "results" / DATASET / "inference_information.json",)),
        Step("Predict the volumes that were in no fold",
             ("nnUNetv2_predict", "-i", str(raw / "imagesTs"), "-o", str(predictions), "-d", str(DATASET_ID), "-c", CONFIGURATION,
              "-f", *FOLDS, *chosen, "-device", device, "-npp", "1", "-nps", "1",
              *(("--disable_tta",) if device == "cpu" else ())),  # mirroring takes eight times as long
             tuple(predictions / name for name in predicted), clear=predictions),
        Step("Evaluate and draw the report",
             ("nnneuro_evaluate", str(predictions), str(raw / "labelsTs"), "--images", str(raw / "imagesTs"), "--training", str(model),
              "--out", str(report)), (report / "report.html", report / "scores.json")),
    ]


def _from_scratch(folder: Path, model: Path, device: str, epochs: int, length: tuple[tuple[str, str], ...]) -> list[Step]:
    preprocessed = folder / "preprocessed" / DATASET
    length = (("NNNEURO_EPOCHS", str(epochs)), *length)
    plan = Step("Plan a small network and preprocess",
                ("nnUNetv2_plan_and_preprocess", "-d", str(DATASET_ID), "-pl", "nnUNetPlannerSmall", "-c", CONFIGURATION,
                 "--verify_dataset_integrity", "-npfp", "2", "-np", "2"), (preprocessed / f"{FROM_SCRATCH.plans}.json",),
                clear=preprocessed)

    def train(fold: str) -> Step:
        command = ("nnUNetv2_train", str(DATASET_ID), CONFIGURATION, fold, "-tr", FROM_SCRATCH.trainer, "-p", FROM_SCRATCH.plans,
                   "-device", device)
        return _training(f"Train fold {fold} with axial attention", command, model / f"fold_{fold}", length, continues=("--c",))

    return [plan, *map(train, FOLDS)]


def _fine_tuned(model: Path, device: str, epochs: int, length: tuple[tuple[str, str], ...]) -> list[Step]:
    def train(fold: str) -> Step:
        command = ("nnneuro_models", "finetune", MODEL, "-d", str(DATASET_ID), "-f", fold, "--epochs", str(epochs), "-device", device)
        return _training(f"Fine-tune the shipped axon model, fold {fold}", command, model / f"fold_{fold}", length)

    return [train(fold) for fold in FOLDS]


def _training(title: str, command: tuple[str, ...], fold: Path, length: tuple[tuple[str, str], ...], continues: tuple[str, ...] = ()
              ) -> Step:
    # nnU-Net keeps the latest while it trains and the final one while it validates
    return Step(title, command, (fold / "checkpoint_final.pth", fold / "validation" / "summary.json"), environment=length,
                resume=(fold / "checkpoint_latest.pth", fold / "checkpoint_final.pth"), continues=continues, clear=fold)


def run_quickstart(folder: Path, *, device: str, epochs: int | None, iterations: int, from_scratch: bool = False,
                   say: Callable[[str], None] = lambda line: print(line, flush=True)) -> Path:
    """Run every step that is not done yet.

    Args:
        folder: where everything is put; the same folder continues.
        device, epochs, iterations, from_scratch: as for `quickstart_steps`.
        say: takes each line for the user.

    Returns:
        The report.

    Raises:
        ValueError: a step failed; the message says which and where its output is.
    """
    folder = folder.resolve()
    steps = quickstart_steps(folder, device=device, epochs=epochs, iterations=iterations, from_scratch=from_scratch)
    variables = _environment(folder)
    for name, value in variables.items():
        say(f"export {name}={shlex.quote(value)}")
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    state_file = folder / "done.json"
    begun = time.monotonic()
    for number, step in enumerate(steps, 1):
        done = json.loads(state_file.read_text()) if state_file.is_file() else {}
        key = _key(step, folder)
        say(f"\n[{number}/{len(steps)}] {step.title}")
        if not step.always and done.get(step.title) == key and all(path.exists() for path in step.makes):
            say(f"  done already: {_printed(step, step.command)}")
            continue
        command = step.command
        if any(path.is_file() for path in step.resume) and done.get(_begun(step)) == key:
            command = (*command, *step.continues)
        elif step.clear is not None:
            shutil.rmtree(step.clear, ignore_errors=True)
        say(f"  $ {_printed(step, command)}")
        if not step.always:  # what follows was made from what this step made before
            later = {name for other in steps[number - 1 :] for name in (other.title, _begun(other))}
            done = {name: value for name, value in done.items() if name not in later}
        done[_begun(step)] = key
        write_json(state_file, done)
        run_command(command, log=logs / f"{number}_{Path(command[0]).name}.log", say=say,
                    variables={**variables, **dict(step.environment)})
        missing = [str(path) for path in step.makes if not path.exists()]
        if missing:
            raise ValueError(f"{command[0]} ended without making {missing[0]}; its output is in {logs}")
        write_json(state_file, {**done, step.title: _key(step, folder)})
    say(f"\nAll steps took {(time.monotonic() - begun) / 60:.1f} minutes.")
    return folder / "report" / "report.html"


def pick_device() -> str:
    """cuda or mps where torch can use one, else cpu."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _environment(folder: Path) -> dict[str, str]:
    return {name: str(folder / name.removeprefix("nnUNet_")) for name in NNUNET_FOLDERS}


def _digest(folder: Path) -> str:
    dataset = folder / "raw" / DATASET / "dataset.json"
    return hashlib.sha256(dataset.read_bytes()).hexdigest() if dataset.is_file() else ""


def _key(step: Step, folder: Path) -> str:
    # the dataset is part of it: where that changed, everything made from it is made anew
    return hashlib.sha256(json.dumps([step.command, step.environment, _digest(folder)]).encode()).hexdigest()


def _begun(step: Step) -> str:
    return step.title + " (begun)"


def _printed(step: Step, command: tuple[str, ...]) -> str:
    return " ".join([*(f"{name}={value}" for name, value in step.environment), shlex.join(command)])
