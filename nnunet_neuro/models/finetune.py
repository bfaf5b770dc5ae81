"""Fine-tuning through nnU-Net's own commands: plans, fingerprint, preprocessing, weights, training; what is done is not done again."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nnunetv2.configuration import default_num_processes
from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_neuro.models.fitted_weights import (
    TRAINER,
    default_trainer,
    fit_weights,
    has_carried_heads,
    trainer_class,
    write_fitted_weights,
)
from nnunet_neuro.models.pretrained import PretrainedModel
from nnunet_neuro.models.seen_images import seen_cases
from nnunet_neuro.models.transfer import layer_table, use_of
from nnunet_neuro.models.transferred_plans import fitted_plans
from nnunet_neuro.plain_commands import run_command
from nnunet_neuro.raw_dataset import NNUNET_FOLDERS
from nnunet_neuro.raw_formats import write_json
from nnunet_neuro.training import TRAINING_LENGTH, CarriedHeadsMixin, NeuroTrainerMixin
from nnunet_neuro.training.carried_heads import HEADS
from nnunet_neuro.views.models import find_dataset, nnunet_folder
from nnunet_neuro.views.planner import dataset_digest

Say = Callable[[str], None]
EPOCHS = 100


@dataclass(frozen=True)
class FineTuning:
    """What to train a model on, and how.

    Attributes:
        dataset: id or name of a raw dataset.
        device: nnU-Net's `-device`.
        configuration: None for that of the model.
        fold: number, or "all".
        trainer: class; None for this plugin's for fine-tuning.
        epochs: None for 100 where the trainer reads NNNEURO_EPOCHS.
        plans_name: of the new plans; None names them after the model's and the model.
        spacing: voxel size (z, y, x) that images are resampled to; None for the model's.
        patch: in the order of the plans; None for the model's.
    """

    dataset: str
    device: str
    configuration: str | None = None
    fold: str = "0"
    trainer: str | None = None
    epochs: int | None = None
    plans_name: str | None = None
    spacing: tuple[float, ...] | None = None
    patch: tuple[int, ...] | None = None


def finetune(model: PretrainedModel, wanted: FineTuning, *, say: Say) -> Path:
    """Prepare a dataset for a trained model and train it on; each plain command is printed before it runs.

    The same call continues what was interrupted.

    Args:
        model: to start from.
        wanted: dataset and options.
        say: takes each line for the user.

    Returns:
        nnU-Net's folder of the trained fold.

    Raises:
        OSError, ValueError: bad input, or a command that failed; one sentence, and the end of the command's output.
    """
    prepared = prepare_finetuning(model, wanted, say=say)
    say(f"\nTrain fold {wanted.fold}")
    return _train(prepared, wanted, say=say)


@dataclass(frozen=True)
class Prepared:
    """What a fine-tuning starts from, in nnU-Net's folders.

    Attributes:
        dataset: nnU-Net's name.
        configuration: to train.
        trainer: class.
        plans_name: of the new plans.
        weights: the fitted checkpoint, for `-pretrained_weights`.
        heads: whether it has heads of classes that the dataset has as well.
        digest: of model and options.
    """

    dataset: str
    configuration: str
    trainer: str
    plans_name: str
    weights: Path
    heads: bool
    digest: str

    @property
    def carries_heads(self) -> bool:
        """Whether the training starts with those."""
        return self.heads and issubclass(trainer_class(self.trainer), CarriedHeadsMixin)

    @property
    def folder(self) -> Path:
        """nnU-Net's folder of the model to be trained."""
        return nnunet_folder("nnUNet_results") / self.dataset / f"{self.trainer}__{self.plans_name}__{self.configuration}"


def prepare_finetuning(model: PretrainedModel, wanted: FineTuning, *, say: Say) -> Prepared:
    """All that comes before the training: plans, fitted weights, fingerprint and preprocessed images.

    The weights come with a JSON file of the same name that says what became of each layer; the table is said as well.

    Raises:
        OSError, ValueError: as of `finetune`; what can be told from the input alone is told before anything is written.
    """
    folders = [nnunet_folder(variable) for variable in NNUNET_FOLDERS]
    dataset = find_dataset(wanted.dataset)
    raw, preprocessed, results = (folder / dataset for folder in folders)
    dataset_json = _read_description(raw)
    cases = _training_cases(raw, dataset_json)
    configuration = model.checked_configuration(wanted.configuration)
    trainer = wanted.trainer or default_trainer(model, configuration)
    _refuse_epochs(trainer, wanted.epochs)
    plans_name = _checked_plans_name(wanted.plans_name or f"{model.plans['plans_name']}From{model.name}")
    use = use_of(model.plans, configuration, dataset_json)
    fit = partial(fitted_plans, configuration=configuration, source=model.use.channels, target=use.channels, spacing=wanted.spacing,
                  patch=wanted.patch)
    fitted = fit_weights(model, fit(model.plans), configuration, trainer, dataset_json)
    work, final = results / "finetune" / plans_name, preprocessed / f"{plans_name}.json"
    state = _State(work / "state.json")
    plans_digest = _digest(model.sha256, model.plans, use.channels, wanted.spacing, wanted.patch,
                           configuration if wanted.spacing or wanted.patch else "")
    if final.is_file() and not state.has("plans", plans_digest):
        raise ValueError(f"{final} is there already, made from another model or with other options; give the new plans another name with "
                         f"-p, or remove it and what was made with it")
    for folder in (work / "logs", preprocessed):
        folder.mkdir(parents=True, exist_ok=True)

    seen, of = seen_cases(model.seen, dataset_json)
    if seen:
        named = ", ".join([*seen[:5], *(["..."] if seen[5:] else [])])
        say(f"Note: the model has seen {len(seen)} of the {of} cases in training ({named}). Their validation says little about images that "
            f"it has not seen; measure on others.")
    say("\nPlans")
    _copy_descriptions(raw, preprocessed, say=say)
    state.set("plans", plans_digest)
    _move_plans(model, dataset, plans_name, work, final, fit, say=say)
    plans = json.loads(final.read_text(encoding="utf-8"))

    say("\nWeights")
    weights = work / f"{trainer}__{configuration}.pth"
    digest = _digest(plans_digest, use.heads, use.has_regions, trainer)
    if state.has(weights.name, digest) and weights.is_file():
        say(f"  done already: {weights}")
    else:
        write_fitted_weights(weights, fitted, model, plans, configuration, trainer, dataset_json)
        say("\n".join(f"  {line}" for line in layer_table(fitted.changes).splitlines()))
        say(f"  written to {weights}, the table to {weights.with_suffix('.json')}")
        state.set(weights.name, digest)

    say("\nFingerprint and preprocessing")
    key = _digest(plans, dataset_digest(raw))
    done = state.has(f"preprocessed {configuration}", key)
    _preprocess(preprocessed, plans, configuration, cases, done=done, logs=work / "logs", say=say)
    state.set(f"preprocessed {configuration}", key)
    return Prepared(dataset, configuration, trainer, plans_name, weights, has_carried_heads(weights), digest)


class _State:
    """Digests of what each finished step was made from."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def has(self, step: str, digest: str) -> bool:
        return self.read().get(step) == digest

    def read(self) -> dict[str, str]:
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}

    def set(self, step: str, digest: str) -> None:
        write_json(self.path, {**self.read(), step: digest})


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _read_description(raw: Path) -> dict[str, Any]:
    path = raw / "dataset.json"
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; expected a raw dataset of nnU-Net, such as nnneuro_convert makes")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); make the dataset again") from error
    if not isinstance(content, dict) or "labels" not in content or not {"channel_names", "modality"} & set(content):
        raise ValueError(f"{path} lacks channel_names or labels; expected the description of a raw dataset of nnU-Net")
    return content


def _training_cases(raw: Path, dataset_json: dict[str, Any]) -> list[str]:
    folder = raw / "imagesTr"
    cases = get_filenames_of_train_images_and_targets(str(raw), dataset_json) if folder.is_dir() or "dataset" in dataset_json else {}
    if not cases:
        raise FileNotFoundError(f"no training images in {folder}; expected files CASE_0000 with the ending of dataset.json")
    return sorted(map(str, cases))


def _checked_plans_name(name: str) -> str:
    if not re.fullmatch(r"[\w.+-]+", name) or "__" in name:
        raise ValueError(f"the new plans would be called {name!r}; give a name of letters and digits, without __, with -p")
    return name


# --- the steps -----------------------------------------------------------------------------------------------------------------------


def _run(command: Sequence[str], log: Path, *, done: bool, say: Say, variables: dict[str, str] | None = None) -> None:
    variables = variables or {}
    line = " ".join([*(f"{name}={shlex.quote(value)}" for name, value in variables.items()), shlex.join(command)])
    if done:
        say(f"  done already: {line}")
        return
    say(f"  $ {line}")
    run_command(command, log=log, say=say, variables=variables)


def _copy_descriptions(raw: Path, preprocessed: Path, *, say: Say) -> None:
    """What nnU-Net's planner copies, which does not run here.

    Raises:
        ValueError: the dataset was planned before with another split.
    """
    for name in ("dataset.json", "splits_final.json"):
        source, copy = raw / name, preprocessed / name
        if not source.is_file() or (copy.is_file() and copy.read_bytes() == source.read_bytes()):
            continue
        if name == "splits_final.json" and copy.is_file():
            given, known = (json.loads(path.read_text(encoding="utf-8")) for path in (source, copy))
            if given != known[:len(given)]:
                raise ValueError(f"{copy} splits the cases otherwise than {source}; remove the one that is out of date")
            continue
        say(f"  $ {shlex.join(['cp', str(source), str(copy)])}")
        shutil.copyfile(source, copy)


def _move_plans(model: PretrainedModel, dataset: str, plans_name: str, work: Path, final: Path,
                fit: Callable[[dict[str, Any]], dict[str, Any]], *, say: Say) -> None:
    """The plans in nnUNet_preprocessed, moved by nnU-Net, which rewrites names and reader, and then fitted."""
    given = str(model.plans.get("dataset_name"))
    source = given if re.fullmatch(r"Dataset\d{3}_[\w.+-]+", given) else "Dataset000_Pretrained"
    trained = re.sub(r"[^\w.+-]", "", str(model.plans["plans_name"])) or "nnUNetPlans"
    # nnU-Net takes them from nnUNet_preprocessed, where those of an installed model are not
    stage = work / "plans"
    for folder in (stage / dataset, stage / source):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(stage / source / f"{trained}.json", model.plans)
    done = final.is_file()
    _run(["nnUNetv2_move_plans_between_datasets", "-s", source, "-t", dataset, "-sp", trained, "-tp", plans_name],
         work / "logs" / "plans.log", variables={"nnUNet_preprocessed": str(stage)}, done=done, say=say)
    if not done:
        moved = json.loads((stage / dataset / f"{plans_name}.json").read_text(encoding="utf-8"))
        fitted = fit(moved)
        write_json(final, fitted)
        say(f"  written to {final}{'' if fitted == moved else ', fitted to channels, spacing and patch'}")


def _preprocess(preprocessed: Path, plans: dict[str, Any], configuration: str, cases: Sequence[str], *, done: bool, logs: Path, say: Say
                ) -> None:
    number, processes = str(convert_dataset_name_to_id(preprocessed.name)), str(default_num_processes)
    _run(["nnUNetv2_extract_fingerprint", "-d", number, "-np", processes], logs / "fingerprint.log", say=say,
         done=(preprocessed / "dataset_fingerprint.json").is_file())
    folder = preprocessed / PlansManager(plans).get_configuration(configuration).data_identifier
    # the last of a case's files that nnU-Net writes
    done = done and all((folder / f"{case}.pkl").is_file() for case in cases)
    _run(["nnUNetv2_preprocess", "-d", number, "-plans_name", plans["plans_name"], "-c", configuration, "-np", processes],
         logs / f"preprocess_{configuration}.log", done=done, say=say)


def _train(prepared: Prepared, wanted: FineTuning, *, say: Say) -> Path:
    folder = prepared.folder / f"fold_{wanted.fold}"
    state = _State(prepared.weights.parent / "state.json")
    key = f"trained {prepared.trainer} {prepared.configuration} {wanted.fold}"
    command = ["nnUNetv2_train", prepared.dataset, prepared.configuration, wanted.fold, "-tr", prepared.trainer, "-p", prepared.plans_name,
               "-device", wanted.device]
    variables = training_variables(prepared, wanted.epochs)
    begun = any((folder / f"checkpoint_{name}.pth").is_file() for name in ("final", "latest", "best"))
    if begun and not state.has(key, prepared.digest):
        raise ValueError(f"{folder} was trained from another model or for other classes; move it away to train anew")
    trained = (folder / "checkpoint_final.pth").is_file()
    done = trained and (folder / "validation" / "summary.json").is_file()
    if begun and not done:
        command.append("--val" if trained else "--c")
    elif not begun:
        command += ["-pretrained_weights", str(prepared.weights)]
    if begun:
        variables.pop(HEADS, None)
    elif prepared.heads and not prepared.carries_heads:
        say(f"  Note: {prepared.trainer} starts with new segmentation layers, as nnU-Net does; {TRAINER} carries them over.")
    state.set(key, prepared.digest)
    _run(command, prepared.weights.parent / "logs" / f"train_{prepared.trainer}_{prepared.configuration}_fold_{wanted.fold}.log",
         done=done, variables=variables, say=say)
    return folder


def training_variables(prepared: Prepared, epochs: int | None) -> dict[str, str]:
    """Of the environment of the training, as far as its trainer reads them."""
    variables = {}
    if issubclass(trainer_class(prepared.trainer), NeuroTrainerMixin):
        variables[TRAINING_LENGTH["num_epochs"]] = str(epochs or EPOCHS)
    if prepared.carries_heads:
        variables[HEADS] = str(prepared.weights)
    return variables


def _refuse_epochs(trainer: str, epochs: int | None) -> None:
    if not issubclass(trainer_class(trainer), NeuroTrainerMixin) and epochs is not None:
        raise ValueError(f"{trainer} does not read the number of epochs; leave out --epochs, or train with {TRAINER}")
