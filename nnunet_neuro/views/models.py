"""Where nnU-Net keeps a view's model, and what of it is there."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_neuro.raw_dataset import NNUNET_FOLDERS
from nnunet_neuro.views.scheme import CONFIGURATION, plans_name

if TYPE_CHECKING:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


@dataclass(frozen=True)
class ViewModel:
    """The model of one view.

    Attributes:
        view: name.
        dataset: nnU-Net's name, such as Dataset704_Thalamus.
        trainer: name of the trainer class.
    """

    view: str
    dataset: str
    trainer: str

    @property
    def folder(self) -> Path:
        """nnU-Net's results folder of the model."""
        return nnunet_folder("nnUNet_results") / self.dataset / f"{self.trainer}__{plans_name(self.view)}__{CONFIGURATION}"

    def fold_folder(self, fold: str) -> Path:
        """Folder of one fold."""
        return self.folder / f"fold_{fold}"

    def trained_folds(self) -> list[str]:
        """The folds whose training is finished."""
        return sorted(path.parent.name.removeprefix("fold_") for path in self.folder.glob("fold_*/checkpoint_final.pth"))

    def plans(self) -> PlansManager:
        """The plans it was trained with."""
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        return PlansManager(str(self.folder / "plans.json"))

    def dataset_json(self) -> dict:
        """The dataset's description as it was when the training began."""
        return json.loads((self.folder / "dataset.json").read_text(encoding="utf-8"))


def nnunet_folder(variable: str) -> Path:
    """One of nnU-Net's three folders.

    Raises:
        ValueError: the variable is not set.
    """
    if not os.environ.get(variable):
        raise ValueError(f"the environment variable {variable} is not set; export {variable}=FOLDER")
    return Path(os.environ[variable])


def find_dataset(dataset: str) -> str:
    """nnU-Net's name of a dataset that is given by name or id.

    Raises:
        ValueError: none of that id or name in nnU-Net's folders.
    """
    from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

    folders = [nnunet_folder(variable) for variable in NNUNET_FOLDERS if os.environ.get(variable)]
    try:
        name = str(maybe_convert_to_dataset_name(dataset))
    except (ValueError, RuntimeError):
        name = None
    if name is None or not any((folder / name).is_dir() for folder in folders):
        raise ValueError(f"there is no dataset {dataset!r}, or several of this id, in nnU-Net's folders ({', '.join(map(str, folders))}); "
                         f"give the id or the name of one, such as 704 or Dataset704_Thalamus, and check {', '.join(NNUNET_FOLDERS)}")
    return name


def trained_models(dataset: str, *, views: Sequence[str], folds: Sequence[str] | None, trainer: str
                   ) -> tuple[list[ViewModel], tuple[str, ...]]:
    """The models of the views, with folds that are trained in all of them.

    Args:
        dataset: nnU-Net's name.
        views: checked names.
        folds: those wanted; None takes every numbered fold that is trained in all views, or else "all".
        trainer: name of the trainer class.

    Returns:
        One model per view, and the folds.

    Raises:
        FileNotFoundError: a view, or a wanted fold of one, is not trained.
    """
    models = [ViewModel(view, dataset, trainer) for view in views]
    trained = {model.view: model.trained_folds() for model in models}
    common = [fold for fold in trained[models[0].view] if all(fold in found for found in trained.values())]
    for model in models:
        found = trained[model.view]
        missing = [fold for fold in folds or () if fold not in found]
        if missing or not found:
            what = f"fold {missing[0]} of the view {model.view}" if missing else f"the view {model.view}"
            raise FileNotFoundError(f"{what} is not trained with {trainer}: {model.folder} has "
                                    f"{'the finished folds ' + ', '.join(found) if found else 'no finished fold'}; run nnneuro_views train "
                                    f"{dataset} -tr {trainer}" + (f" -f {missing[0]}" if missing else ""))
    if not common:
        text = "; ".join(f"{view}: {', '.join(found)}" for view, found in trained.items())
        raise FileNotFoundError(f"the views have no trained fold in common ({text}); train the same folds of each")
    # as nnU-Net's own choice of folds: the network of all cases is not one more fold
    return models, tuple(folds or [fold for fold in common if fold != "all"] or common)
