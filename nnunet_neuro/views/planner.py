"""What the planners of the three views share."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

from nnunet_neuro.views.scheme import CONFIGURATION, transposition

# keys in a plans file, which nnU-Net passes over
MEMORY_KEY = "gpu_memory_target_in_gb"
DATASET_KEY = "dataset_json_sha256"


class ViewPlanner(ExperimentPlanner):
    """nnU-Net's own planner with the sliced axis fixed; only the configuration 2d stays in the plans.

    Spacing, patch and batch size are nnU-Net's own computation on the transposed axes: the plane has the dataset's target spacing of its
    two axes, and the sliced axis is not resampled. `suppress_transpose` has no effect. The plans also record the memory target and the
    state of the dataset, by which `nnneuro_views train` knows whether they still hold.

    Attributes:
        view: name of the view, a key of `scheme.VIEWS`; set by each planner.
    """

    view: str

    def __init__(self, dataset_name_or_id: str | int, gpu_memory_target_in_gb: float, preprocessor_name: str, plans_name: str,
                 overwrite_target_spacing: list[float] | tuple[float, ...] | None, suppress_transpose: bool) -> None:
        super().__init__(dataset_name_or_id, gpu_memory_target_in_gb, preprocessor_name, plans_name, overwrite_target_spacing,
                         suppress_transpose)
        # the search for a low resolution stage would take long, and no 3D configuration stays
        self.lowres_creation_threshold = 0

    def determine_transpose(self) -> tuple[list[int], list[int]]:
        """The view's transposition.

        Raises:
            ValueError: the dataset consists of single slices.
        """
        shape = np.median(self.dataset_fingerprint["shapes_after_crop"], axis=0)
        if min(shape) <= 1:
            raise ValueError(f"{self.dataset_name} consists of single slices, of median shape {', '.join(f'{n:g}' for n in shape)} (z, y, "
                             f"x); views are planes of volumes: plan the dataset with another planner")
        return transposition(self.view)

    def save_plans(self, plans: dict) -> None:
        """Write the plans with the configuration 2d alone."""
        plans["configurations"] = {CONFIGURATION: plans["configurations"][CONFIGURATION]}
        plans[MEMORY_KEY] = self.UNet_vram_target_GB
        plans[DATASET_KEY] = dataset_digest(Path(self.raw_dataset_folder))
        super().save_plans(plans)


def dataset_digest(raw_dataset: Path) -> str:
    """SHA-256 of a raw dataset's dataset.json, where this plugin's converters record every file they made a case from."""
    return hashlib.sha256((raw_dataset / "dataset.json").read_bytes()).hexdigest()
