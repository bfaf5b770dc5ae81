"""Planner of the coronal view."""

from __future__ import annotations

from nnunet_neuro.views.planner import ViewPlanner


class nnUNetPlannerCoronal(ViewPlanner):
    """2D networks on coronal slices, one of the three views of `nnneuro_views`.

    The slices follow each other along y, the array's axis that runs back to front in a volume with the usual axes.
    """

    view = "coronal"

    def __init__(self, dataset_name_or_id: str | int, gpu_memory_target_in_gb: float = 8, preprocessor_name: str = "DefaultPreprocessor",
                 plans_name: str = "nnUNetPlansCoronal", overwrite_target_spacing: list[float] | tuple[float, ...] | None = None,
                 suppress_transpose: bool = False) -> None:
        super().__init__(dataset_name_or_id, gpu_memory_target_in_gb, preprocessor_name, plans_name, overwrite_target_spacing,
                         suppress_transpose)
