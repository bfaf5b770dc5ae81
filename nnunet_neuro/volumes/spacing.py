"""Voxel sizes in micrometres from the units and side files that formats use."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

_MICROMETRES = {
    "um": 1.0, "µm": 1.0, "μm": 1.0, "\\u00b5m": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0,
    "micrometers": 1.0, "micrometres": 1.0, "nm": 1e-3, "nanometer": 1e-3, "nanometre": 1e-3, "nanometers": 1e-3, "nanometres": 1e-3,
    "angstrom": 1e-4, "å": 1e-4, "mm": 1e3, "millimeter": 1e3, "millimetre": 1e3, "millimeters": 1e3, "millimetres": 1e3,
    "cm": 1e4, "centimeter": 1e4, "m": 1e6, "meter": 1e6, "metre": 1e6, "inch": 25400.0,
}  # fmt: skip


def micrometres_per(unit: str | None) -> float | None:
    """How many micrometres a unit of length is; None for an unknown one."""
    return _MICROMETRES.get(unit.strip().lower()) if isinstance(unit, str) else None


def positive(sizes: Sequence[float]) -> bool:
    """Whether every size is a positive finite number; a string, None or NaN is none."""
    return all(isinstance(size, int | float) and 0 < size < math.inf for size in sizes)


def in_micrometres(sizes: Sequence[float], units: Sequence[str | None]) -> tuple[float, ...] | None:
    """Sizes along each axis in micrometres; None where a unit is unknown or a size is no positive number."""
    factors = [micrometres_per(unit) for unit in units]
    if any(factor is None for factor in factors) or not positive(sizes):
        return None
    # decimal sizes in nanometres are not binary fractions: 4.6 nm is 0.0046 um, not 0.0045999999999999999
    return tuple(float(f"{size * factor:.9g}") for size, factor in zip(sizes, factors))


def spacing_sidecar(path: Path) -> Path:
    """Where nnU-Net's Tiff3DIO looks for the voxel size of a label `CASE.tif` (or of images `CASE_0000.tif`, without the channel)."""
    return path.with_name(re.sub(r"_\d{4}$", "", path.stem) + ".json") if _is_channel_file(path) else path.with_suffix(".json")


def _is_channel_file(path: Path) -> bool:
    return re.search(r"_\d{4}$", path.stem) is not None and not path.with_suffix(".json").exists()


def sidecar_spacing(path: Path) -> tuple[float, ...] | None:
    """Voxel size from the file of `spacing_sidecar`; None where there is none, or another program's, such as a BIDS sidecar.

    Raises:
        ValueError: it holds no three positive numbers.
    """
    sidecar = spacing_sidecar(path)
    if not sidecar.is_file():
        return None
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8"))
        if isinstance(content, dict) and content and "spacing" not in content:
            return None
        sizes = content["spacing"]
        if len(sizes) == 3 and positive(sizes):
            return tuple(float(size) for size in sizes)
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f'{sidecar} is no spacing file of nnU-Net; expected {{"spacing": [z, y, x]}} with three positive numbers')
