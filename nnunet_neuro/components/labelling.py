"""Connected components of the classes in one block."""

from __future__ import annotations

import numpy as np


def components_of_classes(labels: np.ndarray, *, connectivity: int) -> tuple[np.ndarray, np.ndarray]:
    """Number the components of each class; voxels of two classes are never of one component.

    Args:
        labels: (z, y, x) integers, 0 for background.
        connectivity: 6, 18 or 26 neighbours.

    Returns:
        uint16 or uint32 components of the same shape, 1 to n and 0 for background; and the class of each of them, (n,) int64.
    """
    import cc3d

    components, count = cc3d.connected_components(np.ascontiguousarray(labels), connectivity=connectivity, return_N=True)
    class_of = np.zeros(count + 1, np.int64)
    class_of[components.ravel()] = labels.ravel()
    return components, class_of[1:]
