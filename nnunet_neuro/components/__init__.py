"""Objects (instances) of label volumes that fit in no memory, with ids and a table that hold for the whole volume."""

from nnunet_neuro.components.objects import Run, label_components, label_watershed
from nnunet_neuro.components.table import ObjectTable
from nnunet_neuro.components.watershed import Landscape, depth_landscape, interior_landscape, probability_landscape

__all__ = ["Landscape", "ObjectTable", "Run", "depth_landscape", "interior_landscape", "label_components", "label_watershed",
           "probability_landscape"]  # fmt: skip
