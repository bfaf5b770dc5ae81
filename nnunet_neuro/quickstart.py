"""The main road on the sample data: convert, plan, train, find the best configuration, predict, evaluate.

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
TRAINER = "nnUNetTrainerAxialAttention"
PLANNER, PLANS = "nnUNetPlannerSmall", "nnUNetPlansSmall"
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
        resume: files of which one, if there, lets the command continue with `--c`.
        always: run it in any case; it finds out itself what is to be done.
        clear: a folder of an older dataset's results that would be in the way; removed before the command runs, except to resume.
    """

    title: str
    command: tuple[str, ...]
    makes: tuple[Path, ...]
    environment: tuple[tuple[str, str], ...] = ()
    resume: tuple[Path, ...] = ()
    always: bool = False
    clear: Path | None = None


def quickstart_steps(folder: Path, *, device: str, epochs: int, iterations: int) -> list[Step]:
    """The commands from raw cubes to the report.

    Args:
        folder: where everything is put.
        device: nnU-Net's `-device`: cuda, mps or cpu.
        epochs: training length of each fold.
        iterations: iterations per epoch.
    """
    sample = Path(__file__).parent / "sample_data" / "axons"
    raw = folder / "raw" / DATASET
    model = folder / "results" / DATASET / f"{TRAINER}__{PLANS}__{CONFIGURATION}"
    predictions, report = folder / "predictions", folder / "report"
    length = (("NNNEURO_EPOCHS", str(epochs)), ("NNNEURO_ITERATIONS", str(iterations)), ("NNNEURO_VAL_ITERATIONS", "4"))
    if device == "cpu":  # on two cores a second augmentation worker slows the network: an epoch took 16.5 s, not 14.3
        length += (("nnUNet_n_proc_DA", "1"),)
    chosen = ("-tr", TRAINER, "-p", PLANS)
    predicted = [f"{path.parents[2].name}_val_{path.stem[-3:]}.tif" for path in sorted(sample.glob("*/val/volumes/*.tiff"))]

    def train(fold: str) -> Step:
        fold_folder = model / f"fold_{fold}"
        return Step(f"Train fold {fold} with axial attention",
                    ("nnUNetv2_train", str(DATASET_ID), CONFIGURATION, fold, *chosen, "-device", device),
                    (fold_folder / "checkpoint_final.pth", fold_folder / "validation" / "summary.json"),
                    # nnU-Net keeps the latest while it trains and the final one while it validates
                    environment=length, resume=(fold_folder / "checkpoint_latest.pth", fold_folder / "checkpoint_final.pth"),
                    clear=fold_folder)

    return [
        Step("Convert the axon cubes of two brains into an nnU-Net dataset",
             ("nnneuro_convert", "axon", f"trailmap={sample / 'trailmap'}", f"dlmbmap={sample / 'dlmbmap'}", "--spacing", SPACING,
              "-d", str(DATASET_ID)), (raw / "dataset.json",), always=True),
        Step("Plan a small network and preprocess",
             ("nnUNetv2_plan_and_preprocess", "-d", str(DATASET_ID), "-pl", PLANNER, "-c", CONFIGURATION,
              "--verify_dataset_integrity", "-npfp", "2", "-np", "2"),
             (folder / "preprocessed" / DATASET / f"{PLANS}.json",), clear=folder / "preprocessed" / DATASET),
        *(train(fold) for fold in FOLDS),
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


def run_quickstart(folder: Path, *, device: str, epochs: int, iterations: int,
                   say: Callable[[str], None] = lambda line: print(line, flush=True)) -> Path:
    """Run every step that is not done yet.

    Args:
        folder: where everything is put; the same folder continues.
        device: nnU-Net's `-device`.
        epochs: training length of each fold.
        iterations: iterations per epoch.
        say: takes each line for the user.

    Returns:
        The report.

    Raises:
        ValueError: a step failed; the message says which and where its output is.
    """
    folder = folder.resolve()
    steps = quickstart_steps(folder, device=device, epochs=epochs, iterations=iterations)
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
            command = (*command, "--c")
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
