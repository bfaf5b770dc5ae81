"""The added loss terms: values, gradients, labels nobody annotated, regions, and their place beside nnU-Net's loss."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from scipy import ndimage
from torch import Tensor, nn

from nnunet_neuro.losses.boundary import BoundaryCrossEntropy, squared_distance
from nnunet_neuro.losses.cl_dice import SoftClDiceLoss, soft_skeleton
from nnunet_neuro.losses.combine import with_term
from nnunet_neuro.losses.focal_tversky import FocalTverskyLoss
from nnunet_neuro.losses.skeleton_recall import SkeletonRecallLoss, SkeletonTransform, skeleton_tube
from nnunet_neuro.losses.targets import PER_SAMPLE, Pooling, TargetFormat
from nnunet_neuro.training import BoundaryMixin, ClDiceMixin, FocalTverskyMixin, NeuroTrainerMixin, SkeletonRecallMixin
from tests.test_trainers_contract import PATCH, Dataset, make_plans, make_trainer, workplace  # noqa: F401 - a fixture

CLASSES = 3  # background, axon, edge
IGNORE = 3
FORMATS = {
    "classes": TargetFormat(),
    "classes, ignore": TargetFormat(ignore_label=IGNORE),
    "regions": TargetFormat(has_regions=True),
    "regions, ignore": TargetFormat(has_regions=True, ignore_label=IGNORE),
}
SHAPES = {"2d": (12, 14), "3d": (6, 12, 12)}
TERMS = ("clDice", "focal Tversky", "boundary", "skeleton recall")
Loss = Callable[[Tensor, Tensor], Tensor]
every_term = pytest.mark.parametrize("term", TERMS)
every_format = pytest.mark.parametrize("target_format", FORMATS.values(), ids=FORMATS)
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def make_loss(term: str, target_format: TargetFormat, *, pooling: Pooling = PER_SAMPLE) -> Loss:
    """A term as a function of logits and nnU-Net's target; skeleton recall makes its skeletons first."""
    if term == "clDice":
        return SoftClDiceLoss(target_format, iterations=3, pooling=pooling)
    if term == "focal Tversky":
        return FocalTverskyLoss(target_format, pooling=pooling)
    if term == "boundary":
        return lambda logits, target: BoundaryCrossEntropy(target_format, (1.0,) * (logits.ndim - 2))(logits, target)
    recall = SkeletonRecallLoss(target_format, pooling=pooling)
    return lambda logits, target: recall(logits, skeletons_of(target, target_format, logits.shape[1]))


def skeletons_of(target: Tensor, target_format: TargetFormat, channels: int) -> Tensor:
    transform = SkeletonTransform(n_regions=channels if target_format.has_regions else None, ignore_label=target_format.ignore_label)
    return torch.stack([transform(segmentation=sample)["segmentation"][-1] for sample in target])


def make_labels(shape: tuple[int, ...], *, batch: int = 2, seed: int = 0) -> np.ndarray:
    """(batch, *shape) int16 with a thick line of class 1 and a thin one of class 2 in every sample."""
    labels = np.zeros((batch, *shape), np.int16)
    for sample, offset in zip(labels, range(batch)):
        sample[..., 2 + offset : 5 + offset, 1:-1] = 1
        sample[..., 8, 2:-3] = 2
    return labels


def make_target(labels: np.ndarray, target_format: TargetFormat) -> Tensor:
    """nnU-Net's target; where there is an ignore label, the last fifth of the last axis but one is ignored."""
    labels = torch.from_numpy(labels.copy())[:, None]
    if target_format.ignore_label is not None:
        labels[..., -2:, :] = target_format.ignore_label
    return as_regions(labels, target_format) if target_format.has_regions else labels


def as_regions(labels: Tensor, target_format: TargetFormat) -> Tensor:
    """Regions (1 or 2) and (2), then the ignored voxels."""
    regions = [(labels == 1) | (labels == 2), labels == 2]
    if target_format.ignore_label is not None:
        regions.append(labels == target_format.ignore_label)
    return torch.cat(regions, 1)


def channels_of(target_format: TargetFormat) -> int:
    return 2 if target_format.has_regions else CLASSES


def perfect_logits(labels: np.ndarray, target_format: TargetFormat) -> Tensor:
    """Logits that say what the labels say, also where the target ignores."""
    labels = torch.from_numpy(labels)[:, None]
    if target_format.has_regions:
        return as_regions(labels, TargetFormat(has_regions=True)).float() * 60 - 30
    return (labels == torch.arange(CLASSES).view(1, -1, *(1,) * (labels.ndim - 2))).float() * 60 - 30


@every_term
@every_format
@every_shape
def test_falls_towards_the_perfect_prediction(term, target_format, shape):
    labels = make_labels(shape)
    target, loss = make_target(labels, target_format), make_loss(term, target_format)
    perfect = perfect_logits(labels, target_format)
    values = [float(loss(perfect * certainty, target)) for certainty in (-0.2, -0.1, -0.05, 0.05, 0.1, 0.2, 1)]
    assert all(later < earlier for earlier, later in itertools.pairwise(values)), values
    assert values[-1] == pytest.approx(0, abs=1e-4)
    assert values[0] > 0.3


@every_term
@every_format
@every_shape
def test_gradient_is_that_of_the_value(term, target_format, shape):
    shape = tuple(min(length, 10) for length in shape)
    target, loss = make_target(make_labels(shape, batch=1), target_format), make_loss(term, target_format)
    logits = torch.randn(1, channels_of(target_format), *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gradient = torch.autograd.grad(loss(logits.requires_grad_(), target), logits)[0]
    assert gradient.abs().sum() > 0
    # along random directions: the whole Jacobian takes minutes
    for seed in range(5):
        direction = torch.randn(logits.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            slope = (loss(logits + 1e-6 * direction, target) - loss(logits - 1e-6 * direction, target)) / 2e-6
        assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-5, abs=1e-8)


@every_term
@every_format
def test_gradcheck_on_a_tiny_patch(term, target_format):
    labels = np.zeros((1, 4, 5), np.int16)
    labels[:, 1, :], labels[:, 2, 1:4] = 1, 2
    target = make_target(labels, target_format) if target_format.ignore_label is None else make_target(labels[:, ::-1], target_format)
    logits = torch.randn(1, channels_of(target_format), 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    loss = make_loss(term, target_format)
    assert torch.autograd.gradcheck(lambda values: loss(values, target), logits.requires_grad_())


@every_term
@every_format
@every_shape
@pytest.mark.parametrize("batch_dice", [False, True])
def test_a_target_without_structure_pulls_at_nothing(term, target_format, shape, batch_dice):
    target = make_target(np.zeros((2, *shape), np.int16), target_format)
    logits = torch.randn(2, channels_of(target_format), *shape, requires_grad=True)
    loss = make_loss(term, target_format, pooling=Pooling(batch_dice=batch_dice))(logits, target)
    loss.backward()
    assert loss.item() == 0
    assert torch.count_nonzero(logits.grad) == 0


@every_term
@pytest.mark.parametrize("name", ["classes, ignore", "regions, ignore"])
def test_a_target_nobody_annotated_pulls_at_nothing(term, name):
    target_format, shape = FORMATS[name], SHAPES["3d"]
    labels = torch.full((2, 1, *shape), IGNORE, dtype=torch.int16)
    target = as_regions(labels, target_format) if target_format.has_regions else labels
    logits = torch.randn(2, channels_of(target_format), *shape, requires_grad=True)
    loss = make_loss(term, target_format)(logits, target)
    loss.backward()
    assert loss.item() == 0 and torch.count_nonzero(logits.grad) == 0


@every_term
@every_shape
@pytest.mark.parametrize("name", ["classes, ignore", "regions, ignore"])
def test_what_is_predicted_where_nobody_annotated_does_not_count(term, name, shape):
    target_format = FORMATS[name]
    target, loss = make_target(make_labels(shape), target_format), make_loss(term, target_format)
    logits = torch.randn(2, channels_of(target_format), *shape, generator=torch.Generator().manual_seed(0))
    changed = logits.clone()
    changed[..., -2:, :] = 5 * torch.randn(logits[..., -2:, :].shape)
    changed.requires_grad_()
    value = loss(changed, target)
    value.backward()
    torch.testing.assert_close(value.detach(), loss(logits, target))
    assert torch.count_nonzero(changed.grad[..., -2:, :]) == 0
    assert torch.count_nonzero(changed.grad[..., :-2, :]) > 0


@every_term
@every_format
def test_one_missing_class_leaves_the_mean_to_the_others(term, target_format):
    shape = SHAPES["3d"]
    both = make_labels(shape, batch=1)
    one = np.where(both == 2, 0, both).astype(np.int16)
    logits = torch.randn(1, channels_of(target_format), *shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    make_loss(term, target_format)(logits, make_target(one, target_format)).backward()
    assert torch.isfinite(logits.grad).all()
    if target_format.has_regions:  # softmax couples the classes, regions are independent
        assert torch.count_nonzero(logits.grad[:, 1]) == 0
        assert torch.count_nonzero(logits.grad[:, 0]) > 0


@every_term
@every_format
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_the_value_of_full_precision(term, target_format, dtype):
    shape = (48, 48, 48)  # a sum over it overflows half precision
    labels = np.ones((1, *shape), np.int16)
    labels[:, :, ::6, :] = 2
    labels[:, :, :2] = 0
    target, loss = make_target(labels, target_format), make_loss(term, target_format)
    logits = torch.randn(1, channels_of(target_format), *shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    value = loss(logits.requires_grad_(), target)
    value.backward()
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.detach(), loss(logits.detach().float(), target))
    assert torch.isfinite(logits.grad).all()


# --- values against plain numpy -------------------------------------------------------------------------------------------------------


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


@every_shape
@pytest.mark.parametrize("batch_dice", [False, True])
def test_focal_tversky_is_the_papers_formula(shape, batch_dice):
    labels = make_labels(shape)
    labels[1][labels[1] == 2] = 0  # only the first sample has class 2
    logits = np.random.default_rng(0).normal(size=(2, CLASSES, *shape)).astype(np.float32)
    probabilities, powers = softmax(logits), []
    samples = [slice(0, 2)] if batch_dice else [slice(0, 1), slice(1, 2)]
    for sample, label in itertools.product(samples, (1, 2)):
        p, g = probabilities[sample, label], labels[sample] == label
        if g.any():
            hit, missed, invented = (p * g).sum(), ((1 - p) * g).sum(), (p * ~g).sum()
            index = (hit + 1) / (hit + 0.7 * missed + 0.3 * invented + 1)
            powers.append((1 - index) ** 0.75)
    assert len(powers) == (2 if batch_dice else 3)
    loss = make_loss("focal Tversky", TargetFormat(), pooling=Pooling(batch_dice=batch_dice))
    assert float(loss(torch.from_numpy(logits), torch.from_numpy(labels)[:, None])) == pytest.approx(np.mean(powers), rel=1e-5)


def naive_skeleton(values: np.ndarray, iterations: int) -> np.ndarray:
    """The paper's algorithm with scipy's filters; outside the image there is no neighbour."""
    cross = ndimage.generate_binary_structure(values.ndim, 1)

    def erode(image: np.ndarray) -> np.ndarray:
        return ndimage.minimum_filter(image, footprint=cross, mode="constant", cval=np.inf)

    def opened(image: np.ndarray) -> np.ndarray:
        return ndimage.maximum_filter(erode(image), size=3, mode="constant", cval=-np.inf)

    skeleton = np.maximum(values - opened(values), 0)
    for _ in range(iterations):
        values = erode(values)
        residue = np.maximum(values - opened(values), 0)
        skeleton = skeleton + np.maximum(residue - skeleton * residue, 0)
    return skeleton


@every_shape
@pytest.mark.parametrize("iterations", [0, 2, 5])
def test_soft_skeleton_is_the_papers_algorithm(shape, iterations):
    values = np.random.default_rng(0).random((2, 3, *shape)).astype(np.float32)
    found = soft_skeleton(torch.from_numpy(values), iterations).numpy()
    for sample, channel in itertools.product(range(2), range(3)):
        np.testing.assert_allclose(found[sample, channel], naive_skeleton(values[sample, channel], iterations), atol=1e-6)


@every_shape
def test_cl_dice_is_the_papers_formula(shape):
    labels = make_labels(shape)
    logits = np.random.default_rng(0).normal(size=(2, CLASSES, *shape)).astype(np.float32)
    probabilities, errors = softmax(logits), []
    for sample, label in itertools.product(range(2), (1, 2)):
        v, t = probabilities[sample, label], (labels[sample] == label).astype(np.float32)
        skeleton_v, skeleton_t = naive_skeleton(v, 3), naive_skeleton(t, 3)
        precision = ((skeleton_v * t).sum() + 1) / (skeleton_v.sum() + 1)
        sensitivity = ((skeleton_t * v).sum() + 1) / (skeleton_t.sum() + 1)
        errors.append(1 - 2 * precision * sensitivity / (precision + sensitivity))
    value = make_loss("clDice", TargetFormat())(torch.from_numpy(logits), torch.from_numpy(labels)[:, None])
    assert float(value) == pytest.approx(np.mean(errors), rel=1e-5)


def test_skeletons_of_single_annotated_planes_are_formed_within_them():
    """As in the evaluation: a lone plane is no body without thickness."""
    plane = torch.rand(1, 2, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    values, annotated = torch.rand(1, 2, 9, 20, 20), torch.zeros(1, 1, 9, 20, 20, dtype=torch.bool)
    values[:, :, 4:5], annotated[:, :, 4:5] = plane, True
    found = soft_skeleton(values, 3, annotated)
    torch.testing.assert_close(found[:, :, 4], soft_skeleton(plane[:, :, 0], 3))
    assert torch.count_nonzero(found[:, :, :4]) == torch.count_nonzero(found[:, :, 5:]) == 0


@every_shape
@pytest.mark.parametrize("with_ignore", [False, True])
@pytest.mark.parametrize("anisotropy", [1, 2.5])
def test_boundary_weights_are_gaussians_of_scipys_distance(shape, with_ignore, anisotropy):
    target_format = TargetFormat(ignore_label=IGNORE if with_ignore else None)
    labels = make_labels(shape)
    target = make_target(labels, target_format)
    spacing = (anisotropy * 0.4, *(0.4,) * (len(shape) - 1))
    logits = np.random.default_rng(0).normal(size=(2, CLASSES, *shape)).astype(np.float32)
    log_probabilities, numerator, denominator = np.log(softmax(logits)), 0.0, 0.0
    for sample in range(2):
        seen = target[sample, 0].numpy()
        for label in range(CLASSES):
            others = (seen != label) & (seen != IGNORE)
            distance = ndimage.distance_transform_edt(~others, sampling=np.array(spacing) / 0.4)
            weight = np.exp(-(distance**2) / (2 * 1.5**2)) * (distance <= 4.5) * (seen == label)
            numerator -= (weight * log_probabilities[sample, label]).sum()
            denominator += weight.sum()
    value = BoundaryCrossEntropy(target_format, spacing, sigma=1.5)(torch.from_numpy(logits), target)
    assert float(value) == pytest.approx(numerator / denominator, rel=1e-5)


def test_distances_are_exact_within_reach():
    places = np.random.default_rng(0).random((7, 15, 13)) < 0.02
    steps, reach = (2.0, 1.0, 1.5), 6.0
    exact = ndimage.distance_transform_edt(~places, sampling=steps)
    found = np.sqrt(squared_distance(torch.from_numpy(places), steps, reach).numpy())
    near = exact <= reach
    np.testing.assert_allclose(found[near], exact[near], rtol=1e-6)
    assert near.any() and (~near).any() and (found[~near] > reach).all()


def test_thick_sections_have_their_boundaries_within_the_section():
    labels = torch.zeros(1, 1, 4, 9, 9, dtype=torch.int16)
    labels[:, :, 2:] = 1  # the only boundary is between two sections
    logits = torch.randn(1, 2, 4, 9, 9)
    assert float(BoundaryCrossEntropy(TargetFormat(), (50, 4, 4))(logits, labels)) == 0
    assert float(BoundaryCrossEntropy(TargetFormat(), (4, 4, 4))(logits, labels)) > 0


@every_format
def test_skeleton_recall_is_the_share_of_the_tube(target_format):
    shape = SHAPES["3d"]
    target = make_target(make_labels(shape), target_format)
    channels = channels_of(target_format)
    logits = np.random.default_rng(0).normal(size=(2, channels, *shape)).astype(np.float32)
    probabilities = 1 / (1 + np.exp(-logits)) if target_format.has_regions else softmax(logits)[:, 1:]
    errors = []
    for sample, channel in itertools.product(range(2), range(2)):
        mask = target[sample, channel].numpy() if target_format.has_regions else target[sample, 0].numpy() == channel + 1
        tube = skeleton_tube(mask, 2)
        errors.append(1 - probabilities[sample, channel][tube].mean())
    assert float(make_loss("skeleton recall", target_format)(torch.from_numpy(logits), target)) == pytest.approx(np.mean(errors), rel=1e-4)


# --- skeletons among the targets ------------------------------------------------------------------------------------------------------


@every_shape
def test_a_tube_follows_its_class_and_stays_within_it(shape):
    labels = make_labels(shape, batch=1)[0]
    skeleton = SkeletonTransform(ignore_label=None)(segmentation=torch.from_numpy(labels)[None])["segmentation"][-1].numpy()[0]
    assert (labels[skeleton > 0] == skeleton[skeleton > 0]).all()
    for label in (1, 2):
        along = (skeleton == label).any(axis=tuple(range(skeleton.ndim - 1)))
        assert along.sum() >= (labels == label).any(axis=tuple(range(labels.ndim - 1))).sum() - 4
    thin = SkeletonTransform(tube=0)(segmentation=torch.from_numpy(labels)[None])["segmentation"][-1].numpy()[0]
    assert 0 < (thin > 0).sum() < (skeleton > 0).sum()


def test_a_class_inside_another_has_a_skeleton_of_its_own():
    """Myelin around an axon: all foreground at once would have one skeleton, in the axon."""
    distance = np.hypot(*np.meshgrid(np.arange(41) - 20, np.arange(41) - 20))
    labels = torch.from_numpy(np.select([distance < 8, distance < 14], [2, 1], 0).astype(np.int16))[None]
    skeleton = SkeletonTransform()(segmentation=labels)["segmentation"][-1][0]
    assert (skeleton == 1).any() and (skeleton == 2).any()
    quarters = [skeleton[:20, :20], skeleton[:20, 21:], skeleton[21:, :20], skeleton[21:, 21:]]
    assert all((quarter == 1).any() for quarter in quarters), "the ring is closed"


def test_a_straight_rod_of_even_thickness_keeps_a_skeleton():
    mask = np.zeros((8, 8, 44), bool)
    mask[3:5, 3:5, 2:42] = True
    assert skeleton_tube(mask, 2).any()


@pytest.mark.parametrize("n_resolutions", [0, 3])
def test_the_skeleton_is_the_last_of_the_targets(n_resolutions):
    labels = torch.from_numpy(make_labels((12, 14), batch=1))
    targets = labels if n_resolutions == 0 else [labels[:, ::step, ::step] for step in (1, 2, 4)]
    made = SkeletonTransform(ignore_label=IGNORE)(segmentation=targets)["segmentation"]
    assert len(made) == max(1, n_resolutions) + 1
    assert made[-1].shape == labels.shape and made[-1].dtype == labels.dtype


# --- beside nnU-Net's loss ------------------------------------------------------------------------------------------------------------


class Constant(nn.Module):
    """A loss that says which resolution it saw."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return output.sum() * 0 + output.shape[-1]


@pytest.mark.parametrize(("finest_only", "expected"), [(True, 0.5 * (8 + 4 / 2) + 10 * 8), (False, 0.5 * (11 * 8 + 11 * 4 / 2))])
def test_a_term_is_added_at_the_finest_or_at_every_resolution(finest_only, expected):
    base = DeepSupervisionWrapper(Constant(), (0.5, 0.25, 0.0))
    loss = with_term(base, Constant(), weight=10, finest_only=finest_only)
    outputs = [torch.zeros(1, 2, size, size) for size in (8, 4, 2)]
    assert float(loss(outputs, outputs)) == expected


def test_terms_can_be_stacked_in_any_order():
    outputs = [torch.zeros(1, 2, size, size) for size in (8, 4)]
    values = set()
    for order in itertools.permutations((True, False)):
        loss: nn.Module = DeepSupervisionWrapper(Constant(), (0.5, 0.5))
        for finest_only in order:
            loss = with_term(loss, Constant(), weight=1, finest_only=finest_only)
        values.add(float(loss(outputs, outputs)))
    assert values == {0.5 * (2 * 8 + 2 * 4) + 8}


def test_without_deep_supervision_the_term_sees_the_output():
    assert float(with_term(Constant(), Constant(), weight=2, finest_only=False)(torch.zeros(1, 2, 8), torch.zeros(1, 1, 8))) == 24


@every_term
@every_format
def test_compiles_without_a_graph_break(term, target_format):
    shape = (6, 8, 10)
    target = make_target(make_labels((6, 12, 12), batch=1)[:, :, :8, :10], target_format)
    logits = torch.randn(1, channels_of(target_format), *shape)
    if term == "skeleton recall":
        target = skeletons_of(target, target_format, logits.shape[1])
        loss = SkeletonRecallLoss(target_format)
    elif term == "boundary":
        loss = BoundaryCrossEntropy(target_format, (1.0,) * 3)
    else:
        loss = make_loss(term, target_format)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits, target), loss(logits, target))


# --- in trainings ---------------------------------------------------------------------------------------------------------------------

LOSS_TRAINERS = ("nnUNetTrainerClDice", "nnUNetTrainerFocalTversky", "nnUNetTrainerBoundary", "nnUNetTrainerSkeletonRecall")


@dataclass(frozen=True)
class RegionDataset(Dataset):
    """The contract's dataset with overlapping regions; sparsely labelled where it has an ignore label."""

    @property
    def json(self) -> dict:
        labels = {"background": 0, "axon": [1, 2], "edge": 2}
        ignore = {"ignore": 3} if self.has_ignore else {}
        return {**super().json, "labels": {**labels, **ignore}, "regions_class_order": [1, 2]}


@pytest.mark.parametrize("channels", [1, 2])  # two-channel datasets have an ignore label
@pytest.mark.parametrize("name", LOSS_TRAINERS)
def test_trains_on_regions(name, channels, workplace):  # noqa: F811
    plain = workplace.make_dataset("2d", channels)
    dataset = RegionDataset(plain.folder, channels, plain.has_ignore)
    trainer = make_trainer(name, dataset, "2d", patch_size=PATCH["2d"])
    trainer.run_training()
    assert trainer.label_manager.has_regions and trainer.label_manager.has_ignore_label == (channels == 2)
    logged = trainer.logger.get_checkpoint()
    assert np.isfinite([*logged["train_losses"], *logged["val_losses"]]).all()
    assert len(logged["dice_per_class_or_region"][0]) == 2


class EverythingTrainer(SkeletonRecallMixin, ClDiceMixin, FocalTverskyMixin, BoundaryMixin, NeuroTrainerMixin, nnUNetTrainer):
    """All terms at once."""


class EverythingAtOneResolutionTrainer(ClDiceMixin, SkeletonRecallMixin, BoundaryMixin, FocalTverskyMixin, NeuroTrainerMixin,
                                       nnUNetTrainer):
    """In another order, without deep supervision."""

    def __init__(self, plans: dict, configuration: str, fold: int, dataset_json: dict,
                 device: torch.device = torch.device("cpu")) -> None:  # noqa: B008 - nnU-Net's signature
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.enable_deep_supervision = False


@pytest.mark.parametrize("trainer_class", [EverythingTrainer, EverythingAtOneResolutionTrainer])
def test_terms_can_be_combined_in_one_training(trainer_class, workplace):  # noqa: F811
    dataset = workplace.make_dataset("3d_fullres", 2)
    trainer = trainer_class(make_plans("3d_fullres", 2, PATCH["3d_fullres"]), "3d_fullres", 0, dataset.json, torch.device("cpu"))
    trainer.run_training()
    logged = trainer.logger.get_checkpoint()
    assert np.isfinite([*logged["train_losses"], *logged["val_losses"]]).all()
    # nnU-Net's Dice and cross-entropy of an untrained network are near 0; four terms stand on top
    assert logged["train_losses"][0] > 1


def test_weights_are_class_attributes(workplace):  # noqa: F811
    class Unweighted(EverythingTrainer):
        cl_dice_weight = focal_tversky_weight = boundary_weight = skeleton_recall_weight = 0.0

    dataset = workplace.make_dataset("2d", 1)
    outputs = [torch.randn(2, 3, size, size) for size in (32, 16, 8)]
    targets = [torch.randint(0, 3, (2, 1, size, size), dtype=torch.int16) for size in (32, 16, 8)]
    values = []
    for trainer_class in (Unweighted, nnUNetTrainer, EverythingTrainer):
        trainer = trainer_class(make_plans("2d", 1, PATCH["2d"]), "2d", 0, dataset.json, torch.device("cpu"))
        further = [] if trainer_class is nnUNetTrainer else [targets[0]]
        values.append(float(trainer._build_loss()(outputs, [*targets, *further])))
    assert values[0] == pytest.approx(values[1])
    assert values[2] > values[1] + 1


@pytest.mark.parametrize("regions", [None, [(1, 2), 2]])
def test_skeletons_and_a_cascade_share_the_label(regions, workplace):  # noqa: F811
    """The previous stage's segmentation becomes input channels; the skeleton is that of the label."""
    torch.manual_seed(0)
    np.random.seed(0)
    plain = workplace.make_dataset("3d_fullres", 1)
    dataset = RegionDataset(plain.folder, 1, False) if regions else plain
    trainer = make_trainer("nnUNetTrainerSkeletonRecall", dataset, "3d_fullres", patch_size=PATCH["3d_fullres"])
    scales = trainer._get_deep_supervision_scales()
    patch = PATCH["3d_fullres"]
    transforms = trainer.get_training_transforms(
        patch, (-0.5, 0.5), scales, (0, 1, 2), False, use_mask_for_norm=[False], is_cascaded=True, foreground_labels=[1, 2],
        regions=regions, ignore_label=None,
    )
    label, previous = make_labels((20, 40, 40), batch=2)
    made = transforms(image=torch.randn(1, 20, 40, 40), segmentation=torch.from_numpy(np.stack((label, 0 * previous))))
    assert made["image"].shape == (3, *patch)
    *targets, skeleton = made["segmentation"]
    assert len(targets) == len(scales)
    assert skeleton.shape == targets[0].shape == ((2 if regions else 1), *patch)
    assert skeleton.any() and ((skeleton == targets[0]) | (skeleton == 0)).all()


def test_skeletons_need_labels_that_are_final(workplace):  # noqa: F811
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

    class AugmentsElsewhere(nnUNetTrainer):
        def get_training_transforms(self, *args, **kwargs):
            return ComposeTransforms([])

    class Both(SkeletonRecallMixin, AugmentsElsewhere):
        pass

    dataset = workplace.make_dataset("2d", 1)
    trainer = Both(make_plans("2d", 1, PATCH["2d"]), "2d", 0, dataset.json, torch.device("cpu"))
    with pytest.raises(ValueError, match="skeleton recall without a trainer that augments on the GPU"):
        trainer.get_training_transforms()


# --- on several processes -------------------------------------------------------------------------------------------------------------


def rank_losses(rank: int, world: int, port: int, out: str) -> None:
    """Every pooled term on one sample of two, and its gradient."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    found = {}
    for term in ("clDice", "focal Tversky", "skeleton recall"):
        logits, target = pooled_batch()
        mine = logits[rank : rank + 1].requires_grad_()
        value = make_loss(term, TargetFormat(), pooling=Pooling(batch_dice=True, ddp=True))(mine, target[rank : rank + 1])
        value.backward()
        found[term] = value.detach(), mine.grad
    torch.save(found, Path(out) / f"rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def pooled_batch() -> tuple[Tensor, Tensor]:
    logits = torch.randn(2, CLASSES, 8, 12, 12, generator=torch.Generator().manual_seed(0))
    return logits, make_target(make_labels((8, 12, 12)), TargetFormat())


@pytest.mark.slow
def test_a_batch_spread_over_two_processes_has_the_loss_of_the_whole(tmp_path):
    import torch.multiprocessing as mp

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(rank_losses, args=(2, port, str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for term in ranks[0]:
        logits, target = pooled_batch()
        whole = make_loss(term, TargetFormat(), pooling=Pooling(batch_dice=True))(logits.requires_grad_(), target)
        whole.backward()
        for rank, found in enumerate(ranks):
            value, gradient = found[term]
            torch.testing.assert_close(value, whole.detach())
            # DDP averages the gradients of the ranks, so each is the whole's times their number, as with nnU-Net's Dice
            torch.testing.assert_close(gradient, 2 * logits.grad[rank : rank + 1])
