"""Planner for training without a GPU."""

from __future__ import annotations

from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner


class nnUNetPlannerSmall(ExperimentPlanner):
    """Few features and small patches, so that nnU-Net trains on two CPU cores.

    nnU-Net's own search for patch and batch size, with a memory target of a fifth of a gigabyte; `-gpu_memory_target`
    raises or lowers it.
    """

    def __init__(self, dataset_name_or_id: str | int, gpu_memory_target_in_gb: float = 0.2,
                 preprocessor_name: str = "DefaultPreprocessor", plans_name: str = "nnUNetPlansSmall",
                 overwrite_target_spacing: list[float] | tuple[float, ...] | None = None,
                 suppress_transpose: bool = False) -> None:
        super().__init__(dataset_name_or_id, gpu_memory_target_in_gb, preprocessor_name, plans_name,
                         overwrite_target_spacing, suppress_transpose)
        self.UNet_base_num_features = 16
        self.UNet_max_features_2d = self.UNet_max_features_3d = 128
        # nnU-Net's 85 million would allow slices of 256 x 256 here
        self.UNet_reference_val_2d = 34_000_000
        # a patch this small would ask for a low resolution stage in almost every data set
        self.lowres_creation_threshold = 0
