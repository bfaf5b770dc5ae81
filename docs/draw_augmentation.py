"""Pictures of each transform, before and after, on the sample volumes: `docs/augmentation/*.png`.

    python docs/draw_augmentation.py [--out docs/augmentation] [--em-image VOLUME --em-label VOLUME]

The project ships no electron microscopy; the section defects are shown on a light-sheet volume unless another one is given.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import torch

from nnunet_neuro.augment.contrast import AxonWeakeningTransform, Enhancement, LocalEnhancementTransform, Spots
from nnunet_neuro.augment.cutmix import CutMixTransform, Mix
from nnunet_neuro.augment.histogram_matching import HistogramMatchingTransform, Match
from nnunet_neuro.augment.quantiles import References, quantile_function
from nnunet_neuro.augment.sections import (
    BrightnessStripesTransform,
    Loss,
    MissingSectionsTransform,
    SectionShiftTransform,
    Shift,
    Stripes,
)
from nnunet_neuro.volumes import open_volume

matplotlib.use("Agg")
SAMPLE = Path(__file__).parents[1] / "nnunet_neuro" / "sample_data" / "axons"


@dataclass(frozen=True)
class Patch:
    """Normalised image (1, z, y, x) float32 and label (1, z, y, x) int16, 1 where the structure is."""

    image: torch.Tensor
    label: torch.Tensor


@dataclass(frozen=True)
class Panel:
    """One picture of a row: an image (rows, columns), the structure in it, a title."""

    title: str
    image: np.ndarray
    structure: np.ndarray


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "augmentation", help="default: %(default)s")
    parser.add_argument("--em-image", type=Path, help="a volume (z, y, x) to show the section defects on")
    parser.add_argument("--em-label", type=Path, help="its label; what is not 0 is outlined")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    axons = read_patch(SAMPLE / "dlmbmap/train/volumes/volume-001.tiff", SAMPLE / "dlmbmap/train/Fine-label/label-001.tiff", 255)
    other = read_patch(SAMPLE / "trailmap/val/volumes/volume-005.tiff", SAMPLE / "trailmap/val/Fine-label/label-005.tiff", 2)
    artefact = read_patch(SAMPLE / "dlmbmap/train/artifacts/volume-001.tiff", None)
    sections = read_patch(args.em_image, args.em_label) if args.em_image else axons
    for name, panels in (
        ("histogram_matching", draw_histogram_matching(axons, other)),
        ("cutmix", draw_cutmix(axons, artefact)),
        ("axon_weakening", draw_weakening(axons)),
        ("local_enhancement", draw_enhancement(other)),
        ("brightness_stripes", draw_stripes(sections)),
        ("section_shift", draw_shift(sections)),
        ("missing_sections", draw_loss(sections)),
    ):
        save_row(panels, args.out / f"{name}.png")
        print(args.out / f"{name}.png")


def read_patch(image: Path, label: Path | None, value: int | None = None) -> Patch:
    """A volume as nnU-Net normalises it; `value` is the label's structure, None for all that is not 0."""
    voxels = open_volume(image).read().astype(np.float32)
    if label is None:
        structure = np.zeros(voxels.shape, bool)
    else:
        structure = open_volume(label).read()
        structure = structure != 0 if value is None else structure == value
    normalised = (voxels - voxels.mean()) / voxels.std()
    return Patch(torch.from_numpy(normalised[None]), torch.from_numpy(structure[None].astype(np.int16)))


def after(transform, patch: Patch, drawn) -> Patch:
    image, label = patch.image.clone(), patch.label.clone()
    transform.fill(image, label, drawn)
    return Patch(image, label)


def plane(patch: Patch, title: str, z: int) -> Panel:
    return Panel(title, patch.image[0, z].numpy(), patch.label[0, z].numpy() == 1)


def from_the_side(patch: Patch, title: str, y: int) -> Panel:
    return Panel(title, patch.image[0, :, y].numpy(), patch.label[0, :, y].numpy() == 1)


def fullest(patch: Patch, axis: int) -> int:
    """The plane that shows most of the structure."""
    return int((patch.label[0] == 1).sum(dim=[n for n in range(3) if n != axis]).argmax())


# --- one picture each ----------------------------------------------------------------------------------------------------------------


def draw_histogram_matching(axons: Patch, other: Patch) -> list[Panel]:
    quantiles = quantile_function(axons.image.numpy())[None]
    transform = HistogramMatchingTransform(References(("other",), quantiles[None], np.array([False]), np.array([True])))
    middle = other.image.shape[1] // 2
    return [plane(other, "TRAILMAP, before", middle),
            plane(after(transform, other, Match(quantiles, 0.5)), "half way to D-LMBmap's", middle),
            plane(after(transform, other, Match(quantiles, 1.0)), "matched entirely", middle),
            plane(axons, "a plane of D-LMBmap's", axons.image.shape[1] // 2)]


def draw_cutmix(axons: Patch, artefact: Patch) -> list[Panel]:
    donors = SimpleNamespace(read=lambda mix: [part[(slice(None), *mix.source)].numpy() for part in (artefact.image, artefact.label)])
    transform = CutMixTransform(donors)
    z = fullest(axons, 0)
    corner, free = (slice(0, z + 5), slice(0, 40), slice(0, 34)), (slice(max(0, z - 9), z + 9), slice(30, 58), slice(22, 60))
    return [plane(axons, "axons, before", z), plane(artefact, "artefact case", z),
            plane(after(transform, axons, Mix("artefact", corner, corner)), "corner box", z),
            plane(after(transform, axons, Mix("artefact", free, free)), "free box", z)]


def draw_weakening(axons: Patch) -> list[Panel]:
    z = fullest(axons, 0)
    positions = np.argwhere(axons.label[0].numpy() == 1)
    near = positions[np.abs(positions[:, 0] - z) < 4]
    drawn = Spots(near[np.random.default_rng(2).integers(len(near), size=4)], 0.65)
    weakened = after(AxonWeakeningTransform((1, 1, 1)), axons, drawn)
    change = Patch(axons.image - weakened.image, axons.label)
    return [plane(axons, "before", z), plane(weakened, "weakened around four axon voxels", z), plane(change, "what was taken away", z)]


def draw_enhancement(other: Patch) -> list[Panel]:
    regions = tuple(max(1, round(length / 24)) for length in other.image.shape[1:])
    transform = LocalEnhancementTransform((1, 1, 1))
    middle = other.image.shape[1] // 2
    return [plane(other, "before", middle),
            *(plane(after(transform, other, Enhancement(regions, strength)), f"contrast evened out, {strength}", middle)
              for strength in (0.5, 1.0))]


def draw_stripes(patch: Patch) -> list[Panel]:
    np.random.seed(4)
    transform = BrightnessStripesTransform(0, strength=1.0, width=(0.7, 2.0))
    drawn = transform.draw(patch.image, patch.label)
    z, y, sections = fullest(patch, 0), fullest(patch, 1), patch.image.shape[1]
    striped = after(transform, patch, Stripes(1, np.resize(drawn.profile, patch.image.shape[2]), 0, sections))
    across = np.resize(drawn.profile, patch.image.shape[3])
    partly = after(transform, patch, Stripes(2, across, sections // 2, sections))
    return [plane(patch, "a section, before", z), plane(striped, "striped", z), from_the_side(patch, "from the side, before", y),
            from_the_side(partly, "half of the sections striped", y)]


def draw_shift(patch: Patch) -> list[Panel]:
    sections, y = patch.image.shape[1], fullest(patch, 1)
    transform = SectionShiftTransform(0)
    step, slip = np.zeros((sections, 2), int), np.zeros((sections, 2), int)
    step[sections // 2:], slip[sections // 2] = (0, 8), (0, 8)
    jitter = np.random.default_rng(0).integers(-2, 3, (sections, 2))
    return [from_the_side(patch, "from the side, before", y),
            *(from_the_side(after(transform, patch, Shift(displacement)), title, y)
              for title, displacement in (("step", step), ("slip", slip), ("jitter", jitter)))]


def draw_loss(patch: Patch) -> list[Panel]:
    sections, y = patch.image.shape[1], fullest(patch, 1)
    lost = (sections // 3, sections // 3 + 1, 2 * sections // 3)
    transform = MissingSectionsTransform(0)
    return [from_the_side(patch, "from the side, before", y),
            *(from_the_side(after(transform, patch, Loss(lost, filling)), f"three lost: {filling}", y)
              for filling in ("dark", "mean", "neighbour"))]


def save_row(panels: list[Panel], file: Path) -> None:
    """Panels side by side, in one range of grey values, with the structure outlined."""
    from matplotlib import pyplot

    low, high = np.percentile(panels[0].image, 1), np.percentile(panels[0].image, 99.3)
    heights = [panel.image.shape[0] / panel.image.shape[1] for panel in panels]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(3 * len(panels), 3 * max(heights) + 0.3), squeeze=False)
    for panel, axis in zip(panels, axes[0]):
        axis.imshow(panel.image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        if panel.structure.any():
            axis.contour(panel.structure, levels=[0.5], colors="#e6a700", linewidths=0.7)
        axis.set_title(panel.title, fontsize=9)
        axis.axis("off")
    figure.tight_layout(pad=0.4)
    figure.savefig(file, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main()
