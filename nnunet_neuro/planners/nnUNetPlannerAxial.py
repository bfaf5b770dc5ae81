"""Planner of the axial view."""

from __future__ import annotations

from nnunet_neuro.views.planner import ViewPlanner


class nnUNetPlannerAxial(ViewPlanner):
    """2D networks on axial slices, one of the three views of `nnneuro_views`.

    The slices follow each other along z, the array's axis that runs bottom to top in a volume with the usual axes.
    """

    view = "axial"

    def __init__(self, dataset_name_or_id: str | int, gpu_memory_target_in_gb: float = 8, preprocessor_name: str = "DefaultPreprocessor",
                 plans_name: str = "nnUNetPlansAxial", overwrite_target_spacing: list[float] | tuple[float, ...] | None = None,
                 suppress_transpose: bool = False) -> None:
        super().__init__(dataset_name_or_id, gpu_memory_target_in_gb, preprocessor_name, plans_name, overwrite_target_spacing,
                         suppress_transpose)
