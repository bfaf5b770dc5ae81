"""Import of a file of an older system, by its kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from nnunet_neuro.models.importing.dlmbmap import import_checkpoint, import_state_dict
from nnunet_neuro.models.importing.model_files import dataset_name, write_model
from nnunet_neuro.models.importing.thalamus import import_view
from nnunet_neuro.models.importing.transfer_table import formatted
from nnunet_neuro.models.importing.tutorial_unet import import_tiles

# what --kind takes -> the name of a dataset of it
KINDS = {"dlmbmap": "DLMBmap", "state-dict": "DLMBmap", "mtneuro": "MTNeuro", "kasthuri": "Kasthuri", "thalamus": "Thalamus"}


def import_model(file: str | Path, results: str | Path, *, kind: str, pickle: str | Path | None = None, dataset_id: int | None = None,
                 name: str | None = None, fold: int | str | None = None, labels: Sequence[str] | None = None,
                 channels: Sequence[str] | None = None, view: str | None = None, say: Callable[[str], None]) -> Path:
    """Make a model folder of nnU-Net v2 from a trained network of an older system.

    No code of the file is run. Every weight is named in a table, and none is left over on either side.

    Args:
        file: the network.
        results: nnUNet_results, or a folder in its place.
        kind: a key of KINDS.
        pickle: nnU-Net v1's plans, for dlmbmap (None for `FILE.pkl`) and state-dict.
        dataset_id: of the new model; None for the first free one from 900 on.
        name: of its dataset; None for that of the kind.
        fold: None for that of the pickle, otherwise 0.
        labels: names of the classes beside the background; None for those of the kind.
        channels: names; None for those of the kind.
        view: of a thalamus network; None where the file's name says it.
        say: takes the table, and remarks.

    Returns:
        `results/DatasetNNN_Name/nnUNetTrainer__PLANS__CONFIGURATION`

    Raises:
        OSError: a file that is missing or cannot be read, or a model that is there already.
        ValueError: a file that asks for code, is damaged, or of another network.
    """
    file, results = Path(file), Path(results)
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}; expected a trained network of {kind}")
    _check_options(kind, pickle=pickle, view=view)
    dataset = dataset_name(dataset_id, name or KINDS[kind], results)
    words = {"labels": labels, "channels": channels}
    try:
        if kind in ("dlmbmap", "state-dict"):
            read = import_checkpoint if kind == "dlmbmap" else import_state_dict
            model, rows, own_fold = read(file, pickle=None if pickle is None else Path(pickle), **words)
        elif kind == "thalamus":
            model, rows, own_fold = import_view(file, view=view, **words)
        else:
            model, rows, own_fold = import_tiles(file, system=kind, **words)
    except ModuleNotFoundError as error:  # a sentence that says what to install
        raise ValueError(str(error)) from error
    folder = write_model(model, results, dataset, fold=own_fold if fold is None else fold)
    say(formatted(rows))
    say(f"{len(rows)} rows; {', '.join(model.channels)} -> {', '.join(model.labels)}, windows of "
        f"{' x '.join(map(str, model.preprocessing.patch))}")
    say(f"predict with: nnUNetv2_predict -d {dataset[7:10]} -c {model.configuration} -p {model.plans_name} "
        f"-f {own_fold if fold is None else fold} -i IMAGES -o OUT")
    return folder


def _check_options(kind: str, *, pickle: str | Path | None, view: str | None) -> None:
    if pickle is not None and kind not in ("dlmbmap", "state-dict"):
        raise ValueError(f"--pickle is for nnU-Net v1 and does not go with --kind {kind}; leave it out")
    if view is not None and kind != "thalamus":
        raise ValueError(f"--view is for the thalamus benchmark and does not go with --kind {kind}; leave it out")
