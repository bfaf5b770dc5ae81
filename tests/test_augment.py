"""Transforms of the library, the trainers' pipelines with them, and the augmented set that is written once."""

from __future__ import annotations

import argparse
import json
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from batchgenerators.dataloading.data_loader import DataLoader
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import blur_dimension
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.cropping import crop_tensor
from nnunetv2.preprocessing.normalization import default_normalization_schemes as nnunet_normalization
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_neuro.augment.contrast import (
    AxonWeakeningTransform,
    LocalEnhancementTransform,
    cone,
    fill_enhanced,
    fill_weakened,
    hat_functions,
)
from nnunet_neuro.augment.cutmix import CutMixTransform, Donors, Mix
from nnunet_neuro.augment.histogram_matching import HistogramMatchingTransform, choose_references, fill_matched
from nnunet_neuro.augment.on_device import (
    BatchAugmentation,
    BatchSettings,
    PatchLoader,
    affine_matrix,
    blurred,
    fill_power,
    sampling_grid,
    targets,
)
from nnunet_neuro.augment.quantiles import (
    KNOTS,
    PROBABILITIES,
    References,
    case_quantiles,
    dataset_references,
    describe_references,
    foreign_references,
    quantile_function,
)
from nnunet_neuro.augment.sections import BrightnessStripesTransform, MissingSectionsTransform, SectionShiftTransform
from nnunet_neuro.augment_training import AxonAugmentMixin, GPUAugmentMixin, axon_transforms, section_axis, section_transforms
from nnunet_neuro.converters import load_converter
from nnunet_neuro.offline_augment import OfflineAugmentation, Recipe, Sample, augmented_cases, sample_image, sample_label
from nnunet_neuro.raw_dataset import Case, DatasetInfo, write_raw_dataset
from nnunet_neuro.volumes import open_volume
from tests.fake_sources.axon import write_brain
from tests.test_trainers_contract import CASES, PATCH, Workplace, make_plans, make_trainer, workplace  # noqa: F401 - a fixture

THRESHOLD = 1.0
PATCHES = {2: (40, 44), 3: (20, 28, 24)}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> nnUNetDatasetBlosc2:
    """Preprocessed cases of two channels, labelled where the first one exceeds the threshold; `empty` does so nowhere."""
    folder = tmp_path_factory.mktemp("preprocessed")
    for number, name in enumerate(("first", "second", "empty")):
        image, label = labelled_patch((22, 30, 26), seed=number, channels=2)
        if name == "empty":
            image, label = image.clamp(max=THRESHOLD), torch.zeros_like(label)
        save_case(folder / name, image, label)
    return nnUNetDatasetBlosc2(str(folder))


def save_case(path: Path, image: torch.Tensor, label: torch.Tensor) -> None:
    locations = {1: np.argwhere(label.numpy() == 1)}
    sizes = {"chunks": tuple(image.shape), "blocks": (1, *(min(16, length) for length in image.shape[1:]))}
    nnUNetDatasetBlosc2.save_case(image.numpy(), label.numpy().astype(np.int8), {"class_locations": locations}, str(path), **sizes)


def labelled_patch(shape: tuple[int, ...], *, seed: int = 0, channels: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise, and as label where the first channel exceeds the threshold."""
    image = torch.from_numpy(np.random.default_rng(seed).normal(size=(channels, *shape)).astype(np.float32))
    return image, (image[:1] > THRESHOLD).to(torch.int16)


def call(transform: BasicTransform, image: torch.Tensor, label: torch.Tensor, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    np.random.seed(seed)
    done = transform(image=image.clone(), segmentation=label.clone())
    return done["image"], done["segmentation"]


# --- what every transform promises ---------------------------------------------------------------------------------------------------

Maker = Callable[[nnUNetDatasetBlosc2, int, float], BasicTransform]


def references_of(dataset: nnUNetDatasetBlosc2) -> References:
    return dataset_references(dataset, progress=False)


# name -> transform of a dataset, a number of dimensions, and a strength of which 0 is none
MAKERS: dict[str, Maker] = {
    "histogram matching": lambda data, n, strength: HistogramMatchingTransform(references_of(data), strength=strength),
    "cutmix": lambda data, n, strength: CutMixTransform(Donors(data), largest=strength),
    "axon weakening": lambda data, n, strength: AxonWeakeningTransform((2,) + (1,) * (n - 1), radius=6, strength=strength),
    "local enhancement": lambda data, n, strength: LocalEnhancementTransform((1,) * n, region=(5, 12), strength=strength),
    "brightness stripes": lambda data, n, strength: BrightnessStripesTransform(0 if n == 3 else None, strength=strength),
    "missing sections": lambda data, n, strength: MissingSectionsTransform(0, most=round(2 * strength)),
    "section shift": lambda data, n, strength: SectionShiftTransform(0, most=round(6 * strength)),
}
VOLUMES_ONLY = ("missing sections", "section shift")
EACH = pytest.mark.parametrize(("name", "dimensions"), [(name, n) for name in MAKERS for n in (2, 3) if n == 3 or name not in VOLUMES_ONLY])


@EACH
def test_zero_strength_and_zero_probability_change_nothing(name, dimensions, dataset):
    image, label = labelled_patch(PATCHES[dimensions], channels=2)
    transform = MAKERS[name](dataset, dimensions, 0.0)
    never = MAKERS[name](dataset, dimensions, 1.0)
    never.probability = 0.0
    for seed in range(8):
        for unchanged in (call(transform, image, label, seed=seed), call(never, image, label, seed=seed)):
            assert torch.equal(unchanged[0], image) and torch.equal(unchanged[1], label)


@EACH
def test_changes_the_image_and_keeps_its_form(name, dimensions, dataset):
    image, label = labelled_patch(PATCHES[dimensions], channels=2)
    transform = MAKERS[name](dataset, dimensions, 1.0)
    changed = 0
    for seed in range(12):
        new_image, new_label = call(transform, image, label, seed=seed)
        assert (new_image.dtype, new_image.shape) == (torch.float32, image.shape) and torch.isfinite(new_image).all()
        assert (new_label.dtype, new_label.shape) == (torch.int16, label.shape)
        changed += not torch.equal(new_image, image)
    assert changed >= 6


@EACH
def test_same_seed_same_result_also_after_pickling(name, dimensions, dataset):
    image, label = labelled_patch(PATCHES[dimensions], channels=2)
    transform = MAKERS[name](dataset, dimensions, 1.0)
    sent = pickle.loads(pickle.dumps(transform))
    results = []
    for seed in range(6):
        first, second = call(transform, image, label, seed=seed), call(sent, image, label, seed=seed)
        assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
        results.append(first[0])
    assert any(not torch.equal(results[0], other) for other in results[1:])


@EACH
def test_a_view_into_a_larger_patch_is_changed_alike(name, dimensions, dataset):
    # nnU-Net's centre crop, where it neither rotates nor scales, is such a view
    image, label = labelled_patch(PATCHES[dimensions], channels=2)
    larger = torch.nn.functional.pad(image, (3, 3) * dimensions)
    view = larger[(slice(None), *(slice(3, -3),) * dimensions)]
    transform = MAKERS[name](dataset, dimensions, 1.0)
    np.random.seed(3)
    done = transform(image=view, segmentation=label.clone())
    torch.testing.assert_close(done["image"], call(transform, image, label, seed=3)[0], rtol=1e-4, atol=1e-4)


@EACH
def test_only_numpys_generator_is_drawn_from(name, dimensions, dataset):
    image, label = labelled_patch(PATCHES[dimensions], channels=2)
    state = torch.get_rng_state()
    call(MAKERS[name](dataset, dimensions, 1.0), image, label)
    assert torch.equal(torch.get_rng_state(), state)


class OnePatch(DataLoader):
    """Gives the same patch again and again, transformed in the worker; with the worker's number."""

    def __init__(self, transform: BasicTransform) -> None:
        super().__init__(None, 1, infinite=True)
        self.transform = transform

    def generate_train_batch(self) -> dict:
        time.sleep(0.01)  # or one process would make all batches before the other has begun
        image, label = labelled_patch(PATCHES[3])
        # as an array: a tensor's shared memory is asked for from a worker that may have ended
        return {"worker": self.thread_id, "image": self.transform(image=image, segmentation=label)["image"].numpy()}


def test_workers_draw_differently():
    loader = NonDetMultiThreadedAugmenter(OnePatch(SectionShiftTransform(0)), None, num_processes=2, num_cached=2, seeds=None)
    firsts: dict[int, np.ndarray] = {}
    for _ in range(3000):
        batch = next(loader)
        firsts.setdefault(batch["worker"], batch["image"])
        if len(firsts) == 2:
            break
    loader._finish()
    assert len(firsts) == 2 and (firsts[0] != firsts[1]).any()


# --- histogram matching --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["normal to gamma", "heavy tails", "few grey values"])
def test_full_strength_is_scikit_images_histogram_matching(kind):
    from skimage.exposure import match_histograms

    generator = np.random.default_rng(0)
    image, reference = generator.normal(size=(48, 48, 48)), generator.gamma(2, size=(40, 40, 40))
    if kind == "heavy tails":
        reference[:2] *= 40
        image[3:5] *= 30
    elif kind == "few grey values":
        reference = generator.normal(size=(40, 40, 40)).round(1)
    image, reference = image.astype(np.float32), reference.astype(np.float32)
    expected = match_histograms(image, reference)
    matched = torch.from_numpy(image.copy())
    fill_matched(matched, quantile_function(reference), 1.0)
    error = np.abs(matched.numpy() - expected)
    # grey values a tenth apart may come out one step apart
    allowed = 0.1 if kind == "few grey values" else 0.02 * expected.std()
    assert np.median(error) < allowed
    assert np.quantile(error, 0.999) < (0.3 if kind == "heavy tails" else 0.12) * expected.std()


def test_strength_blends_and_keeps_the_order():
    image, _ = labelled_patch(PATCHES[3])
    reference = quantile_function(np.random.default_rng(1).gamma(2, size=10000))
    half, full = image[0].clone(), image[0].clone()
    fill_matched(half, reference, 0.5)
    fill_matched(full, reference, 1.0)
    torch.testing.assert_close(half, (image[0] + full) / 2, rtol=0, atol=1e-3)
    in_order = full.flatten()[image[0].flatten().argsort()]
    assert (in_order.diff() >= -1e-4).all()


def test_what_lies_outside_neither_counts_nor_changes():
    image, label = labelled_patch((24, 32, 32))
    label[:, :12], image[:, :12] = -1, 7.5
    transform = HistogramMatchingTransform(one_reference(quantile_function(np.random.default_rng(1).normal(3, 1, 10000))), strength=1.0)
    matched, _ = call(transform, image, label)
    assert (matched[:, :12] == 7.5).all()
    assert matched[:, 12:].mean() == pytest.approx(3, abs=0.05)


def test_a_constant_channel_stays():
    image = torch.full((1, 8, 8, 8), 2.5)
    fill_matched(image[0], quantile_function(np.arange(100.0)), 1.0)
    assert (image == 2.5).all()


def test_bright_voxels_of_a_hundredth_of_a_percent_are_not_lost():
    reference = np.random.default_rng(0).normal(size=100 ** 3)
    reference[:1000] = 50
    assert quantile_function(reference)[PROBABILITIES > 1 - 0.0005].min() > 40


def one_reference(quantiles: np.ndarray) -> References:
    return References(("one",), quantiles[None, None], np.array([False]), np.array([False]))


def test_empty_patches_are_matched_to_empty_references(dataset):
    references = references_of(dataset)
    assert dict(zip(references.names, references.empty)) == {"first": False, "second": False, "empty": True}
    assert [references.names[n] for n in choose_references(references, empty=True, foreign=False)] == ["empty"]
    assert sorted(references.names[n] for n in choose_references(references, empty=False, foreign=False)) == ["first", "second"]
    only_empty = References(("a",), references.quantiles[:1], np.array([True]), np.array([False]))
    assert choose_references(only_empty, empty=False, foreign=True).tolist() == [0]


def test_ignored_voxels_are_no_foreground(dataset):
    image, label = labelled_patch(PATCHES[3], channels=2)
    ignored = label * 2
    transform = HistogramMatchingTransform(references_of(dataset), strength=1.0, ignore_label=2)
    empty = list(references_of(dataset).names).index("empty")
    np.random.seed(0)
    assert all(np.array_equal(transform.draw(image, ignored).quantiles, transform.references.quantiles[empty]) for _ in range(6))


def test_quantiles_are_computed_once_and_again_for_other_files(dataset, tmp_path, monkeypatch):
    folder = tmp_path / "preprocessed"
    folder.mkdir()
    for name in ("a", "b"):
        save_case(folder / name, *labelled_patch((8, 10, 12), seed=ord(name)))
    cases, cache = nnUNetDatasetBlosc2(str(folder)), tmp_path / "references.npz"
    first = dataset_references(cases, cache, progress=False)
    monkeypatch.setattr("nnunet_neuro.augment.quantiles.case_quantiles", lambda *arrays: pytest.fail("computed twice"))
    again = dataset_references(cases, cache, progress=False)
    assert first.names == again.names and np.array_equal(first.quantiles, again.quantiles)
    monkeypatch.undo()
    save_case_anew(folder / "b", *labelled_patch((8, 10, 14), seed=5))
    assert not np.array_equal(dataset_references(cases, cache, progress=False).quantiles[1], first.quantiles[1])
    cache.write_bytes(cache.read_bytes()[:50])
    assert dataset_references(cases, cache, progress=False).names == ("a", "b")


def save_case_anew(path: Path, image: torch.Tensor, label: torch.Tensor) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    save_case(path, image, label)


def test_large_cases_are_sampled_evenly_and_padding_is_left_out():
    image = np.broadcast_to(np.linspace(0, 1, 64, dtype=np.float32)[:, None, None], (1, 64, 40, 40)).copy()
    segmentation = np.zeros((1, 64, 40, 40), np.int8)
    segmentation[:, :, :20] = -1
    image[:, :, :20] = 99
    quantiles = case_quantiles(image, segmentation, most_voxels=64 * 40 * 40 // 8)
    np.testing.assert_allclose(quantiles[0], PROBABILITIES, atol=0.13)  # of eight planes
    assert quantiles.shape == (1, KNOTS)
    assert case_quantiles(image, segmentation * 0 - 1) is None


@pytest.mark.parametrize("scheme", ["ZScoreNormalization", "CTNormalization", "RescaleTo01Normalization", "RGBTo01Normalization",
                                    "NoNormalization"])
def test_another_brains_quantiles_are_those_of_its_normalised_image(scheme, tmp_path):
    image = np.random.default_rng(0).gamma(2, 20, (40, 44, 42)).clip(1, 250).astype(np.uint16)
    image[:, :, 40:] = 0  # nnU-Net crops this away before it normalises
    np.save(tmp_path / "cube.npy", image)
    cube = Case("other_001", (open_volume(tmp_path / "cube.npy"),), None, (1, 1, 1), "other", "test", notes={"artefact": True})
    entries = json.loads(json.dumps(describe_references([cube])))
    intensities = {"mean": 30.0, "std": 12.0, "percentile_00_5": 5.0, "percentile_99_5": 90.0}
    references = foreign_references(entries, [scheme], {"0": intensities})
    normaliser = getattr(nnunet_normalization, scheme)(use_mask_for_norm=False, intensityproperties=intensities)
    expected = quantile_function(normaliser.run(image[:, :, :40].astype(np.float32)))
    # every second knot is kept; the last ones stand for a single voxel each
    np.testing.assert_allclose(references.quantiles[0, 0, :-3], expected[:-3], atol=0.03 * np.ptp(expected))
    assert references.quantiles[0, 0, -1] == pytest.approx(expected[-1], rel=1e-3)
    assert references.foreign.tolist() == [True] and references.empty.tolist() == [True] and references.names == ("other_001",)


def test_unfitting_references_of_another_brain_are_refused(tmp_path):
    entry = {"name": "x", "empty": False, "channels": [{"mean": 0, "std": 1, "quantiles": [0, 1]}]}
    with pytest.raises(ValueError, match="has 1 channels, the dataset has 2"):
        foreign_references([entry], ["ZScoreNormalization"] * 2, {})
    with pytest.raises(ValueError, match="MyNormalization"):
        foreign_references([entry], ["MyNormalization"], {})
    assert foreign_references([], ["ZScoreNormalization"], {}) is None


# --- cutmix --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("corner_share", [0.0, 1.0])
def test_the_label_comes_with_the_donors_voxels(dataset, dimensions, corner_share):
    image, label = labelled_patch(PATCHES[dimensions], seed=9, channels=2)
    transform = CutMixTransform(Donors(dataset), corner_share=corner_share)
    for seed in range(20):
        mixed, mixed_label = call(transform, image, label, seed=seed)
        assert torch.equal(mixed_label[0] == 1, mixed[0] > THRESHOLD)
        np.random.seed(seed)
        np.random.random()  # whether to apply
        drawn = transform.draw(image, label)
        outside = torch.ones(image.shape[1:], dtype=torch.bool)
        if drawn is not None:
            outside[drawn.box] = False
            at_border = [part.start == 0 or part.stop == length for part, length in zip(drawn.box, outside.shape)]
            assert all(at_border) or corner_share == 0
        assert torch.equal(mixed[:, outside], image[:, outside])


def test_artefacts_empty_the_label(dataset):
    donors = Donors(dataset, artefacts=["first"])
    assert sorted(donors.artefacts) == ["empty", "first"] and donors.others == ["second"]
    box = (slice(2, 12), slice(3, 20), slice(1, 9))
    image, label = labelled_patch(PATCHES[3], channels=2)
    CutMixTransform(donors).fill(image, label, Mix("first", box, box))
    assert (label[0][box] == 0).all() and (image[0][box] > THRESHOLD).any()


def test_donors_of_either_kind_are_drawn(dataset):
    image, label = labelled_patch(PATCHES[3], channels=2)
    drawn = {}
    for share in (0.0, 0.5, 1.0):
        transform = CutMixTransform(Donors(dataset), artefact_share=share)
        np.random.seed(0)
        found = [transform.draw(image, label) for _ in range(40)]
        drawn[share] = {mix.donor for mix in found if mix is not None}
    assert drawn == {0.0: {"first", "second"}, 0.5: {"first", "second", "empty"}, 1.0: {"empty"}}


def test_the_previous_stage_of_a_cascade_comes_along(dataset, tmp_path):
    for name in dataset.identifiers:
        previous = np.full((22, 30, 26), 5, np.int8)
        nnUNetDatasetBlosc2.save_seg(previous, str(tmp_path / name), (22, 30, 26), (16, 16, 16))
    cascaded = nnUNetDatasetBlosc2(dataset.source_folder, folder_with_segs_from_previous_stage=str(tmp_path))
    image, label = labelled_patch(PATCHES[3], channels=2)
    label = torch.cat([label, label])
    box = (slice(0, 5),) * 3
    CutMixTransform(Donors(cascaded)).fill(image, label, Mix("first", box, box))
    assert (label[1][box] == 5).all() and label[1].max() == 5 and label[0].max() == 1


def test_donors_smaller_than_the_patch_give_smaller_boxes(dataset):
    image, label = labelled_patch((40, 50, 60), seed=9, channels=2)
    transform = CutMixTransform(Donors(dataset))
    for seed in range(10):
        mixed, mixed_label = call(transform, image, label, seed=seed)
        assert torch.equal(mixed_label[0] == 1, mixed[0] > THRESHOLD)


# --- local contrast ------------------------------------------------------------------------------------------------------------------


def test_weakening_acts_alike_along_all_axes():
    image = torch.zeros(1, 41, 41, 41)
    image[0, ::2] = 1  # mean one half
    before = image.clone()
    fill_weakened(image, np.array([20, 20, 20]), cone(10, np.ones(3)), 0.8)
    change = (image - before).abs()[0]
    assert change[20, 20, 20] == pytest.approx(0.8 * 0.5, rel=0.05)
    lines = [change[:, 20, 20], change[20, :, 20], change[20, 20, :]]
    for line in lines:
        assert torch.allclose(line, lines[0], atol=0.04) and (line[:10] == 0).all() and (line[31:] == 0).all()


def test_weakening_spots_are_round_in_space():
    weights = cone(9, np.array([3.0, 1.0, 1.0]))
    assert weights.shape == (7, 19, 19)
    assert weights[3 + 2, 9, 9] == pytest.approx(weights[3, 9 + 6, 9].item())


@pytest.mark.parametrize("value", [1, 2])
def test_weakening_is_around_foreground_only(value):
    image, _ = labelled_patch((48, 48, 48))
    label = torch.zeros(1, 48, 48, 48, dtype=torch.int16)
    label[0, 0, 0, 0], label[0, 30, 30, 30] = value, 3
    changed, unchanged_label = call(AxonWeakeningTransform((1, 1, 1), radius=8, ignore_label=3), image, label)
    moved = (changed != image)[0]
    assert moved[0, 0, 0] and not moved[8:].any() and not moved[:, 8:].any() and not moved[:, :, 8:].any()
    assert torch.equal(unchanged_label, label)
    nothing, _ = call(AxonWeakeningTransform((1, 1, 1), ignore_label=3), image, torch.zeros_like(label))
    assert torch.equal(nothing, image)


def test_enhancement_evens_out_contrast_up_to_its_limit():
    image, label = labelled_patch((64, 64, 64))
    image[:, :32] *= 0.5
    image[:, 32:] *= 2
    image += 4
    low, high = slice(0, 16), slice(48, 64)
    enhanced, same_label = call(LocalEnhancementTransform((1, 1, 1), region=16, strength=1.0), image, label)
    assert enhanced[0, high].std() / enhanced[0, low].std() == pytest.approx(1, abs=0.2)
    assert enhanced[0, low].mean() == pytest.approx(4, abs=0.05)
    limited, _ = call(LocalEnhancementTransform((1, 1, 1), region=16, limit=1.5, strength=1.0), image, label)
    assert limited[0, low].std() / image[0, low].std() == pytest.approx(1.5, abs=0.1)
    assert torch.equal(same_label, label)


def test_enhancement_of_plain_regions():
    image = torch.zeros(1, 32, 32)
    image[:, :, 16:] = torch.from_numpy(np.random.default_rng(0).normal(size=(32, 16)).astype(np.float32))
    plain = torch.full((1, 32, 32), 3.0)
    transform = LocalEnhancementTransform((1, 1), region=8, strength=1.0)
    enhanced, _ = call(transform, image, torch.zeros(1, 32, 32, dtype=torch.int16))
    assert (enhanced[:, :, :6].abs() < 0.05).all()
    assert torch.equal(call(transform, plain, torch.zeros(1, 32, 32, dtype=torch.int16))[0], plain)


def test_regions_weigh_every_voxel_once():
    for length, regions in ((20, 3), (7, 7), (5, 1)):
        weights = hat_functions(length, regions)
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(length))
    # of any number of axes, with lengths that differ
    channel = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 8, 10)).astype(np.float32))
    once = channel.clone()
    fill_enhanced(once, [hat_functions(n, 1) for n in channel.shape], 3.0, 1.0)
    torch.testing.assert_close(once, channel)


# --- sections ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_displaced_sections_take_their_label_along(axis):
    image, label = labelled_patch(PATCHES[3])
    image[image == 0] = 0.1
    moved_once = False
    for seed in range(20):
        moved, moved_label = call(SectionShiftTransform(axis, most=6), image, label, seed=seed)
        outside = moved_label[0] == -1
        assert (moved[0][outside] == 0).all()
        assert torch.equal((moved_label[0] == 1)[~outside], (moved[0] > THRESHOLD)[~outside])
        # a section keeps its own voxels
        for section in range(image.shape[axis + 1]):
            values = moved[0].select(axis, section)
            kept = values[values != 0]
            assert torch.isin(kept, image[0].select(axis, section)).all()
        moved_once = moved_once or bool(outside.any())
    assert moved_once


def test_lost_sections_are_replaced_as_a_whole_and_keep_their_label():
    image, label = labelled_patch(PATCHES[3], channels=2)
    fillings = set()
    for seed in range(40):
        lost, same_label = call(MissingSectionsTransform(0, most=3), image, label, seed=seed)
        assert torch.equal(same_label, label)
        changed = [z for z in range(image.shape[1]) if not torch.equal(lost[:, z], image[:, z])]
        assert 1 <= len(changed) <= 3
        for z in changed:
            if (lost[0, z] == lost[0, z, 0, 0]).all():
                fillings.add("dark" if lost[0, z, 0, 0] == image[0].min() else "mean")
            else:
                assert any(torch.equal(lost[:, z], image[:, other]) for other in range(image.shape[1]) if other not in changed)
                fillings.add("neighbour")
    assert fillings == {"dark", "mean", "neighbour"}
    single, single_label = labelled_patch((1, 8, 8))
    assert torch.equal(call(MissingSectionsTransform(0), single, single_label)[0], single)


@pytest.mark.parametrize("axis", [None, 0, 2])
def test_stripes_are_even_along_themselves_and_in_the_plane(axis):
    image, label = labelled_patch(PATCHES[2 if axis is None else 3])
    for seed in range(10):
        striped, same_label = call(BrightnessStripesTransform(axis, strength=1.0), image, label, seed=seed)
        added = striped[0] - image[0]
        across = [n for n in range(added.ndim) if n != axis and added.std(dim=n).max() > 1e-3]
        assert len(across) == 1 and torch.equal(same_label, label)
        assert 0.3 < added.abs().max() < 8


# --- pipelines of trainers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("name", ["nnUNetTrainerAxonAugment", "nnUNetTrainerAxialAttentionAxonAugment"])
def test_donors_and_references_are_the_folds_training_cases(name, configuration, workplace):  # noqa: F811 - the fixture
    dataset = workplace.make_dataset(configuration, 1)
    trainer = make_trainer(name, dataset, configuration, patch_size=PATCH[configuration])
    trainer.initialize()
    loader, _ = trainer.get_dataloaders()
    transforms = pickle.loads(pickle.dumps(loader.data_loader.transforms)).transforms
    cutmix = next(t for t in transforms if isinstance(t, CutMixTransform))
    matching = next(t for t in transforms if isinstance(t, HistogramMatchingTransform))
    assert sorted(cutmix.donors.shape_of) == sorted(matching.references.names) == sorted(CASES[:2])
    assert sorted(cutmix.donors.dataset.identifiers) == sorted(CASES[:2])
    places = [type(t) for t in transforms]
    assert places.index(SpatialTransform) + 1 == places.index(CutMixTransform) < places.index(MirrorTransform)
    assert (Path(trainer.output_folder) / "histogram_references.npz").is_file()


def test_artefact_cases_and_another_brain_reach_the_transforms(workplace: Workplace):  # noqa: F811 - the fixture
    dataset = workplace.make_dataset("3d_fullres", 1)
    trainer = make_trainer("nnUNetTrainerAxonAugment", dataset, "3d_fullres", patch_size=PATCH["3d_fullres"])
    quantiles = np.linspace(100, 300, 129).tolist()
    trainer.dataset_json = {
        **trainer.dataset_json,
        "provenance": {"cases": {CASES[0]: {"artefact": True}, CASES[1]: {"artefact": False}}},
        "histogram_references": [{"name": "other", "empty": False, "channels": [{"mean": 200, "std": 50, "quantiles": quantiles}]}],
    }
    trainer.initialize()
    loader, _ = trainer.get_dataloaders()
    transforms = loader.data_loader.transforms.transforms
    assert next(t for t in transforms if isinstance(t, CutMixTransform)).donors.artefacts == [CASES[0]]
    references = next(t for t in transforms if isinstance(t, HistogramMatchingTransform)).references
    assert references.names[-1] == "other" and references.foreign.tolist() == [False, False, True]
    assert references.quantiles[-1, 0, [0, -1]].tolist() == [-2, 2]


@pytest.mark.parametrize(("configuration", "expected"), [
    ("2d", [BrightnessStripesTransform]),
    ("3d_fullres", [SectionShiftTransform, BrightnessStripesTransform, MissingSectionsTransform]),
])
def test_section_defects_come_last_and_flat_images_get_stripes(configuration, expected, workplace):  # noqa: F811 - the fixture
    dataset = workplace.make_dataset(configuration, 1)
    trainer = make_trainer("nnUNetTrainerEMAugment", dataset, configuration, patch_size=PATCH[configuration])
    trainer.initialize()
    loader, _ = trainer.get_dataloaders()
    places = [type(t) for t in loader.data_loader.transforms.transforms]
    mirroring = places.index(MirrorTransform)
    assert places[mirroring - len(expected):mirroring] == expected


def test_sections_are_the_planes_of_the_raw_volume():
    assert section_axis([0, 1, 2], 3) == 0 and section_axis([2, 0, 1], 3) == 1
    assert section_axis([0, 1, 2], 2) is None and section_axis([1, 0, 2], 2) == 0


def test_all_together_keep_what_nnunet_expects(dataset):
    added = [*axon_transforms(Donors(dataset), references_of(dataset), spacing=(3, 1, 1), ignore_label=None), *section_transforms(0)]
    for transform in added:
        transform.probability = 1.0
    image, label = labelled_patch((24, 40, 32), channels=2)
    for seed in range(5):
        np.random.seed(seed)
        sample = {"image": image.clone(), "segmentation": label.clone()}
        for transform in added:
            sample = transform(**sample)
        assert sample["image"].dtype == torch.float32 and torch.isfinite(sample["image"]).all()
        assert set(sample["segmentation"].unique().tolist()) <= {-1, 0, 1}


# --- on the device -------------------------------------------------------------------------------------------------------------------

SETTINGS = BatchSettings((16, 20, 18), (-0.5, 0.5), [[1, 1, 1], [0.5] * 3], (0, 1, 2))
LARGER = (31, 40, 36)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_patches_are_moved_as_by_nnunet(dimensions):
    image, patch = torch.randn(1, 1, *LARGER[-dimensions:]), SETTINGS.patch_size[-dimensions:]
    theirs = SpatialTransform(patch, 0, False, p_rotation=1, rotation=(-0.5, 0.5), p_scaling=1, scaling=(0.7, 1.4),
                              p_synchronize_scaling_across_axes=1)
    np.random.seed(0)
    drawn = theirs.get_parameters(image=image[0])
    grid = sampling_grid(drawn["affine"][None], image.shape[2:], patch, image.device)
    ours = torch.nn.functional.grid_sample(image, grid, align_corners=False)[0]
    torch.testing.assert_close(ours, theirs._apply_to_image(image[0], **drawn), rtol=0, atol=1e-4)


def test_anisotropic_volumes_are_moved_within_their_planes():
    matrix = affine_matrix(np.array([0.1, 0.4]), 1.2, flat=True)
    np.testing.assert_array_equal(matrix[0], [1, 0, 0])
    np.testing.assert_allclose(matrix[1:, 1:], 1.2 * np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]]))
    settings = replace(SETTINGS, flat=True)
    image = torch.arange(16.0).view(1, 1, 16, 1, 1).expand(4, 1, 16, 40, 36).contiguous()
    moved, _ = BatchAugmentation(settings, torch.device("cpu"), seed=0)._moved(image, torch.zeros(image.shape, dtype=torch.int16))
    assert moved.shape == (4, 1, *SETTINGS.patch_size)
    torch.testing.assert_close(moved[:, 0, :, 10, 9], torch.arange(16.0).expand(4, 16))


def test_image_and_label_are_moved_together():
    from scipy.ndimage import gaussian_filter

    blurred_noise = gaussian_filter(np.random.default_rng(0).normal(size=(6, 1, 48, 56, 52)), (0, 0, 5, 5, 5)).astype(np.float32)
    image = torch.from_numpy(blurred_noise / blurred_noise.std())
    label = (image > 0).to(torch.int16)
    settings = replace(SETTINGS, patch_size=(32, 36, 34))
    new_image, new_label = BatchAugmentation(settings, torch.device("cpu"), seed=1)._moved(image, label)
    inside = new_label >= 0
    assert ((new_image > 0) == (new_label == 1))[inside].float().mean() > 0.97
    assert (new_image[~inside].abs() < 3).all() and new_label.dtype == torch.int16


@pytest.mark.parametrize("power", [0.7, 1.4])
@pytest.mark.parametrize("inverted", [False, True])
def test_gamma_is_nnunets(power, inverted):
    image, _ = labelled_patch(PATCHES[3])
    theirs = GammaTransform(power, p_invert_image=float(inverted), synchronize_channels=False, p_per_channel=1, p_retain_stats=1)
    expected = theirs(image=image.clone())["image"]
    fill_power(image[0], power, inverted=inverted)
    torch.testing.assert_close(image, expected, rtol=1e-4, atol=1e-4)


def test_blur_is_nnunets():
    image, _ = labelled_patch(PATCHES[3])
    expected = image
    for axis in range(3):
        expected = blur_dimension(expected, 1.0, axis)
    torch.testing.assert_close(blurred(image[0], (1.0, 1.0, 1.0)), expected[0], rtol=0, atol=1e-4)
    assert blurred(image[0, :2], (1.0, 1.0, 1.0)).shape == (2, 28, 24)  # an axis shorter than the kernel


@pytest.mark.parametrize(("regions", "ignore_label"), [(None, None), (None, 3), ([(1, 2), 2], None), ([(1, 2), (2,)], 3)])
@pytest.mark.parametrize("scales", [None, [[1, 1, 1], [1, 0.5, 0.5], [0.5, 0.25, 0.25]]])
def test_targets_are_nnunets(regions, ignore_label, scales):
    label = torch.from_numpy(np.random.default_rng(0).integers(-1, 4, (2, 1, 16, 20, 24)).astype(np.int16))
    ours = targets(label, replace(SETTINGS, regions=regions, ignore_label=ignore_label, deep_supervision_scales=scales))
    pipeline = nnUNetTrainer.get_validation_transforms(scales, regions=regions, ignore_label=ignore_label)
    for place, sample in enumerate(label):
        expected = pipeline(segmentation=sample.clone())["segmentation"]
        for our, their in zip(*((part if isinstance(part, list) else [part]) for part in (ours, expected))):
            assert torch.equal(our[place], their) and our.dtype == their.dtype


def test_batches_on_the_device_come_from_the_seed():
    batch = {"data": [torch.randn(2, 2, *SETTINGS.patch_size), torch.randn(3, 2, *LARGER)],
             "target": [torch.ones(2, 1, *SETTINGS.patch_size, dtype=torch.int16), torch.ones(3, 1, *LARGER, dtype=torch.int16)],
             "moved": np.array([True, False, True, True, False])}
    batch["target"][0][:, :, :5] = -1
    augmentation = BatchAugmentation(replace(SETTINGS, masked_channels=(1,)), torch.device("cpu"), seed=3)
    first, second = augmentation(batch), augmentation(batch)
    assert first["data"].shape == (5, 2, *SETTINGS.patch_size) and first["data"].dtype == torch.float32
    assert [tuple(target.shape) for target in first["target"]] == [(5, 1, 16, 20, 18), (5, 1, 8, 10, 9)]
    assert not torch.equal(first["data"], second["data"])
    augmentation.reseed(3)
    again = augmentation(batch)
    assert torch.equal(first["data"], again["data"]) and torch.equal(first["target"][0], again["target"][0])
    outside = first["target"][0][:, 0] == 0
    assert outside.any() and (first["data"][:, 1][outside] == 0).all() and (first["data"][:, 0][outside] != 0).any()


@pytest.mark.parametrize("patch", [(16, 20, 18), (20, 18)])
def test_samples_keep_their_place_and_a_third_has_a_margin(tmp_path, patch):
    names = [f"case_{number}" for number in range(1, 6)]
    for number, name in enumerate(names, 1):
        save_case(tmp_path / name, torch.zeros(1, 44, 48, 46), torch.full((1, 44, 48, 46), number, dtype=torch.int16))
    dataset = nnUNetDatasetBlosc2(str(tmp_path))
    dimensions = len(patch)
    labels = SimpleNamespace(all_labels=list(range(6)), has_ignore_label=False)
    larger = LARGER[-dimensions:]
    loader = PatchLoader(dataset, 5, larger, patch, labels, transforms=ComposeTransforms([]))
    augmentation = BatchAugmentation(replace(SETTINGS, patch_size=patch, mirror_axes=(0, 1), deep_supervision_scales=None),
                                     torch.device("cpu"), seed=0)
    np.random.seed(0)
    moved = []
    for _ in range(20):
        batch = next(loader)
        moved += batch["moved"].tolist()
        assert [len(part) for part in batch["data"]] == [(~batch["moved"]).sum(), batch["moved"].sum()]
        done = augmentation(batch)
        for key, label in zip(batch["keys"], done["target"]):
            assert set(label.unique().tolist()) <= {0, names.index(key) + 1} and label.max() > 0
    assert np.mean(moved) == pytest.approx(0.36, abs=0.12)


def test_a_sample_without_margin_is_the_middle_of_the_one_with_it(dataset):
    labels = SimpleNamespace(all_labels=[0, 1], has_ignore_label=False)
    theirs, ours = (make(dataset, 1, (15, 21, 20), (8, 13, 10), labels) for make in (nnUNetDataLoader, PatchLoader))
    image = torch.arange(22.0 * 30 * 26).view(1, 22, 30, 26)
    shapes = set()
    for seed in range(12):
        np.random.seed(seed)
        whole = crop_and_pad_nd(image, [list(ends) for ends in zip(*theirs.get_bbox((22, 30, 26), False, None))], 0)
        np.random.seed(seed)
        patch = crop_and_pad_nd(image, [list(ends) for ends in zip(*ours.get_bbox((22, 30, 26), False, None))], 0)
        expected = crop_tensor(whole, [length // 2 for length in whole.shape[1:]], patch.shape[1:])
        assert torch.equal(patch, expected)
        shapes.add(tuple(patch.shape[1:]))
    assert shapes == {(8, 13, 10), (15, 21, 20)}


def test_the_device_trainer_with_processes_and_a_seed(workplace, monkeypatch):  # noqa: F811 - the fixture
    monkeypatch.setenv("NNNEURO_SEED", "1")
    dataset = workplace.make_dataset("3d_fullres", 1)
    losses = []
    for processes in ("0", "1"):
        monkeypatch.setenv("nnUNet_n_proc_DA", processes)
        trainer = make_trainer("nnUNetTrainerGPUAugment", dataset, "3d_fullres", patch_size=PATCH["3d_fullres"])
        trainer.on_train_start()
        trainer.on_train_epoch_start()
        losses.append([float(trainer.train_step(next(trainer.dataloader_train))["loss"]) for _ in range(3)])
        trainer.on_train_end()
    assert losses[0] == losses[1] and np.isfinite(losses).all()


def test_the_axon_transforms_work_in_front_of_the_device(workplace):  # noqa: F811 - the fixture
    dataset = workplace.make_dataset("3d_fullres", 1)
    both = type("nnUNetTrainerAxonAugmentOnDevice", (AxonAugmentMixin, GPUAugmentMixin, nnUNetTrainer), {})
    trainer = both(make_plans("3d_fullres", 1, PATCH["3d_fullres"]), "3d_fullres", 0, dataset.json, torch.device("cpu"))
    trainer.initialize()
    loader, _ = trainer.get_dataloaders()
    inner = loader.data_loader.transforms.transforms.transforms
    assert [type(transform) for transform in inner][:2] == [CutMixTransform, HistogramMatchingTransform]
    for transform in inner:
        transform.probability = 1.0
    assert np.isfinite(trainer.train_step(next(loader))["loss"])


def test_a_cascade_is_augmented_by_nnunet(workplace):  # noqa: F811 - the fixture
    dataset = workplace.make_dataset("3d_fullres", 1)
    trainer = make_trainer("nnUNetTrainerGPUAugment", dataset, "3d_fullres", patch_size=PATCH["3d_fullres"])
    pipeline = trainer.get_training_transforms((16, 32, 32), (-0.5, 0.5), None, (0, 1, 2), False, is_cascaded=True,
                                               foreground_labels=[1, 2])
    assert isinstance(pipeline.transforms[0], SpatialTransform) and trainer.batch_augmentation is None


# --- the augmented set ---------------------------------------------------------------------------------------------------------------


def axon_dataset(tmp_path: Path, **brain) -> tuple[list[Case], DatasetInfo]:
    """Cases of a made-up brain with artefact and test cubes."""
    write_brain(tmp_path / "brain", **{"numbers": tuple(range(1, 8)), "artefacts": (1, 2, 3, 4, 5, 6), "val": (1,), **brain})
    converter = load_converter("axon")
    parser = argparse.ArgumentParser()
    converter.add_arguments(parser)
    arguments = parser.parse_args([str(tmp_path / "brain")])
    arguments.variant, arguments.name = "dlmbmap", "Axons"
    return list(converter.cases(arguments)), converter.dataset_info(arguments)


def other_brain(tmp_path: Path) -> tuple[Case, ...]:
    """Two cubes of another brain, ten times as bright, the second an artefact cube."""
    cubes = []
    for number, artefact in enumerate((False, True)):
        voxels = np.random.default_rng(number).integers(40000, 60000, (8, 12, 10)).astype(np.uint16)
        np.save(tmp_path / f"other_{number}.npy", voxels)
        cubes.append(Case(f"other_{number}", (open_volume(tmp_path / f"other_{number}.npy"),), None, (3.0, 1.6, 1.6), "other", "test",
                          notes={"artefact": artefact}))
    return tuple(cubes)


def test_the_augmented_set_has_the_order_and_names_of_create_data(tmp_path):
    cases, info = axon_dataset(tmp_path)
    options = OfflineAugmentation(samples=2, size=8, references=other_brain(tmp_path))
    made = list(augmented_cases(cases, info, options))
    cubes = list(dict.fromkeys(case.identifier.rpartition("_")[0] for case in made if case.split == "train"))
    axons, artefacts = [f"brain_{n:03d}" for n in range(1, 8)], [f"brain_artifact_{n:03d}" for n in range(1, 7)]
    assert cubes == [*axons, *(f"{name}m" for name in axons), *artefacts, *(f"{name}m" for name in artefacts),
                     *(f"{name}c" for name in axons)]
    # 21 cubes with axons to 12 without: half as many crops of the latter
    assert sum(case.identifier.startswith("brain_artifact") for case in made) == 12 * 1
    assert sum(case.identifier.startswith("brain_0") for case in made) == 21 * 2
    assert [case.identifier for case in made if case.split == "test"] == ["brain_val_001"]
    assert {case.notes["matched_to"] for case in made if "artifact_001m" in case.identifier} == {"other_1"}
    assert {case.notes["matched_to"] for case in made if "brain_001m" in case.identifier} == {"other_0"}


def test_no_tissue_is_in_two_folds(tmp_path):
    cases, info = axon_dataset(tmp_path)
    options = OfflineAugmentation(samples=1, size=8, references=other_brain(tmp_path))
    folder = write_raw_dataset(lambda: augmented_cases(cases, info, options), info, dataset_id=1, raw_folder=tmp_path / "raw",
                               progress=False)
    records = json.loads((folder / "dataset.json").read_text())["provenance"]["cases"]
    folds = json.loads((folder / "splits_final.json").read_text())
    assert len(folds) == 5
    for fold in folds:
        tissue = {part: {records[name][key] for name in fold[part] for key in ("copy_of", "mixed_with")} - {""} for part in fold}
        assert tissue["train"] and tissue["val"] and not tissue["train"] & tissue["val"]
    mixed = next(record for name, record in records.items() if "001c" in name)
    assert {Path(source["path"]).parent.name for source in mixed["sources"]} >= {"volumes", "Fine-label", "artifacts"}


def test_without_mixes_groups_stay(tmp_path):
    cases, info = axon_dataset(tmp_path)
    made = list(augmented_cases(cases, info, OfflineAugmentation(samples=1, size=8, cutmix=False)))
    group_of = {case.identifier: case.group for case in cases}
    assert all(case.group == group_of[case.notes["copy_of"]] for case in made if case.split == "train")
    assert not any("c_" in case.identifier or "m_" in case.identifier for case in made)


def test_the_same_seed_gives_the_same_voxels_and_another_cube_changes_none(tmp_path):
    cases, info = axon_dataset(tmp_path)
    options = OfflineAugmentation(samples=1, size=8, references=other_brain(tmp_path), cutmix=False)
    some = {case.identifier: case for case in augmented_cases(cases[:6] + cases[7:], info, options)}
    every = {case.identifier: pickle.loads(pickle.dumps(case)) for case in augmented_cases(cases, info, options)}
    for name in ("brain_001_01", "brain_002m_01"):
        np.testing.assert_array_equal(some[name].channels[0].read(), every[name].channels[0].read())
        np.testing.assert_array_equal(some[name].label.read(), every[name].label.read())
    other = {case.identifier: case for case in augmented_cases(cases, info, replace(options, seed=1))}
    assert any((every[name].channels[0].read() != other[name].channels[0].read()).any() for name in ("brain_001_01", "brain_002_01"))


def test_matched_copies_have_the_other_brains_intensities(tmp_path):
    cases, info = axon_dataset(tmp_path)
    options = OfflineAugmentation(samples=1, size=8, references=other_brain(tmp_path))
    made = {case.identifier: case for case in augmented_cases(cases, info, options)}
    assert made["brain_001_01"].channels[0].read().mean() < 10000
    matched = made["brain_001m_01"].channels[0].read()
    assert matched.dtype == np.uint16 and 40000 < matched.mean() < 60000


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [(), (1,), (2,), (1, 2)])
def test_image_and_label_are_turned_together(turns, mirrored, tmp_path):
    case, info = smooth_cube(tmp_path)
    exact = Sample((2, 1, 3), (12, 20, 20), turns, mirrored)
    turned = sample_image(Recipe(case), exact, info, 0)
    np.testing.assert_array_equal(turned > 1000, sample_label(Recipe(case), exact, info) == 1)
    oblique = replace(exact, scale=(1.1, 1.2, 1.05), angle=9.0)
    agree = (sample_image(Recipe(case), oblique, info, 0) > 1000) == (sample_label(Recipe(case), oblique, info) == 1)
    assert agree.mean() > 0.94  # but for the surface, where one is interpolated and the other is not


def test_contrast_is_weakened_around_axons(tmp_path):
    case, info = smooth_cube(tmp_path)
    plain = Sample((0, 0, 0), (16, 24, 24))
    before, after = (sample_image(Recipe(case), sample, info, 0).astype(float) for sample in (plain, replace(plain, contrast_seed=1)))
    assert after.std() < before.std() and (after != before).any()


def smooth_cube(tmp_path: Path) -> tuple[Case, DatasetInfo]:
    """A cube labelled where it is brighter than 1000."""
    from scipy.ndimage import gaussian_filter

    blurred = gaussian_filter(np.random.default_rng(0).normal(size=(16, 24, 24)), 3)
    image = (1000 + 500 * blurred / blurred.std()).clip(0).astype(np.uint16)
    np.save(tmp_path / "image.npy", image)
    np.save(tmp_path / "label.npy", (image > 1000).astype(np.uint8))
    case = Case("cube", (open_volume(tmp_path / "image.npy"),), open_volume(tmp_path / "label.npy"), (1.0, 1.0, 1.0), "cube",
                label_values={0: 0, 1: 1})
    return case, DatasetInfo("Cubes", ("lightsheet",), {"background": 0, "axon": 1}, ".tif", "", "", "axon", {}, ())


@pytest.mark.parametrize(("options", "message"), [
    (OfflineAugmentation(samples=0), "found 0 samples"),
    (OfflineAugmentation(size=0), "samples of 0 voxels"),
])
def test_impossible_options(options, message, tmp_path):
    cases, info = axon_dataset(tmp_path)
    with pytest.raises(ValueError, match=message):
        next(augmented_cases(cases, info, options))
    with pytest.raises(ValueError, match="no training case that shows the structure"):
        next(augmented_cases([case for case in cases if case.notes["artefact"]], info, OfflineAugmentation()))
