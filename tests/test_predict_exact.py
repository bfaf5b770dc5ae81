"""Block-wise prediction gives the labels of nnU-Net for the whole volume, however the volume is cut into blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from nnunet_neuro.predict import block_predictor
from nnunet_neuro.predict.block_predictor import BlockPredictor, first_pass
from nnunet_neuro.predict.column import Column
from nnunet_neuro.predict.exactness import describe_exactness
from nnunet_neuro.predict.model import TrainedModel, load_model
from nnunet_neuro.predict.options import PredictOptions
from nnunet_neuro.predict.windows import block_grid
from nnunet_neuro.volumes import open_channels
from nnunet_neuro.volumes.volume import Volume
from tests.tiny_models import LABELS, REGIONS, nnunet_labels, tiny_model, volumes_of

AS_NNUNET = PredictOptions()
CHUNK = (8, 8, 8)


@dataclass(frozen=True)
class Case:
    """A model and a volume that nnU-Net predicts as a whole."""

    shape: tuple[int, int, int]
    model: dict = field(default_factory=dict)
    margin: bool = False

    def image(self) -> np.ndarray:
        rng = np.random.default_rng(sum(self.shape))
        image = rng.normal(100, 30, (self.model.get("channels", 1), *self.shape)).clip(1, 255).astype(np.uint16)
        if self.margin:
            image[:, :3] = image[:, :, :, -4:] = image[:, :, :1] = 0
        return image


CASES = {
    "plain": Case((20, 30, 41)),
    "smaller than the patch": Case((9, 11, 13)),
    "smaller than the patch along one axis": Case((40, 13, 30), {"norm": "ZScoreNormalization"}),
    "as large as the patch": Case((16, 24, 20)),
    "mirrored": Case((18, 30, 23), {"mirroring": True}),
    "two folds": Case((20, 26, 41), {"folds": (0, 1), "norm": "RescaleTo01Normalization"}),
    "two folds, mirrored": Case((17, 26, 20), {"folds": (0, 1), "mirroring": True}),
    "z-score with a margin": Case((22, 33, 41), {"norm": "ZScoreNormalization"}, margin=True),
    "z-score of what is not zero": Case((22, 33, 41), {"norm": "ZScoreNormalization", "masked": True}, margin=True),
    "five channels, each its own": Case((18, 27, 23), {"channels": 5, "norm": (
        "NoNormalization", "CTNormalization", "RescaleTo01Normalization", "RGBTo01Normalization", "ZScoreNormalization")}, margin=True),
    "transposed": Case((20, 30, 25), {"transpose": (2, 0, 1), "norm": "CTNormalization"}, margin=True),
    "transposed the other way": Case((20, 30, 25), {"transpose": (1, 2, 0), "norm": "ZScoreNormalization", "channels": 2}, margin=True),
    "flat windows": Case((15, 50, 47), {"patch": (4, 32, 28)}),
    "2d": Case((7, 30, 41), {"patch": (24, 20)}),
    "2d, one slice": Case((1, 30, 41), {"patch": (24, 20), "norm": "ZScoreNormalization"}),
    "2d, transposed, two folds, mirrored": Case((12, 9, 41), {"patch": (24, 20), "transpose": (1, 0, 2), "folds": (0, 1),
                                                              "mirroring": True}, margin=True),
    "regions": Case((20, 30, 25), {"labels": REGIONS, "channels": 3}, margin=True),
    "ignore label": Case((20, 30, 25), {"labels": {**LABELS, "ignore": 3}}),
    "never resampled": Case((20, 30, 25), {"resampling": "no_resampling_hack", "spacing": (3, 2, 2)}),
}


@pytest.mark.parametrize("name", CASES)
def test_labels_are_those_of_nnunet(name: str, tmp_path: Path, few_threads: None) -> None:
    case = CASES[name]
    image, folds = case.image(), case.model.get("folds", (0,))
    expected = nnunet_labels(tiny_model(tmp_path, **case.model), image, folds=folds)
    assert len(np.unique(expected)) > 1, "a model that gives one label everywhere tests nothing"

    model = load_model(tmp_path)
    for size in (case.shape, (8, 16, 24)):
        found = predict(model, volumes_of(image), size=size)
        assert np.count_nonzero(found != expected) == 0
        assert found.dtype == expected.dtype


def test_without_mirroring_and_with_another_step(tmp_path: Path, few_threads: None) -> None:
    image = Case((20, 44, 20)).image()
    model = load_model(tiny_model(tmp_path, mirroring=True))
    mirrored = nnunet_labels(tmp_path, image)
    for step, mirroring in ((0.5, False), (1.0, True)):
        expected = nnunet_labels(tmp_path, image, step=step, mirroring=mirroring)
        assert np.any(expected != mirrored)
        found = predict(model, volumes_of(image), PredictOptions(step=step, mirroring=mirroring), size=(8, 16, 16))
        assert np.array_equal(found, expected)


def test_images_without_contrast(tmp_path: Path, few_threads: None) -> None:
    model = load_model(tiny_model(tmp_path, norm="ZScoreNormalization"))
    for number in (0, 7):
        image = np.full((1, 20, 30, 25), number, np.uint8)
        assert np.array_equal(predict(model, volumes_of(image), size=(8, 16, 16)), nnunet_labels(tmp_path, image))


def test_a_file_on_disk(tmp_path: Path, few_threads: None) -> None:
    """By nnU-Net's own reader from a file, against planes read here one after the other."""
    image = CASES["z-score with a margin"].image()
    folder = tiny_model(tmp_path / "model", norm="ZScoreNormalization")
    tifffile.imwrite(tmp_path / "image.tif", image[0])
    (tmp_path / "image.json").write_text('{"spacing": [1, 1, 1]}')
    model = load_model(folder)
    reader = model.plans.image_reader_writer_class()
    expected = nnunet_labels(folder, reader.read_images([str(tmp_path / "image.tif")])[0])
    assert np.array_equal(predict(model, open_channels(tmp_path / "image.tif"), size=(8, 16, 16)), expected)


@pytest.fixture(scope="module")
def one_volume(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedModel, np.ndarray, np.ndarray]:
    """A model, an image with an empty margin, and nnU-Net's labels."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tiny_model(tmp_path_factory.mktemp("model"), patch=(12, 16, 8), norm="ZScoreNormalization", transpose=(1, 0, 2))
    image = Case((21, 25, 19), margin=True).image()
    labels = nnunet_labels(folder, image)
    torch.set_num_threads(threads)
    return load_model(folder), image, labels


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chunk=st.tuples(*[st.integers(4, 12)] * 3), factor=st.tuples(*[st.integers(1, 3)] * 3), seed=st.integers(0, 99))
def test_any_cut_in_any_order_gives_the_same(chunk, factor, seed: int, one_volume, few_threads: None) -> None:
    model, image, expected = one_volume
    size = [length * times for length, times in zip(chunk, factor)]
    found = predict(model, volumes_of(image), size=size, chunk=chunk, seed=seed)
    assert np.array_equal(found, expected)


def test_a_column_computes_no_window_twice_and_may_be_entered_anywhere(one_volume, few_threads: None) -> None:
    model, image, expected = one_volume
    predictor = BlockPredictor(model, volumes_of(image), first_pass(model, volumes_of(image)))
    blocks = block_grid(expected.shape, chunk=(4, 4, 4), size=(21, 4, 19), axis=predictor.grid.rolling_axis)
    assert len({block.column for block in blocks}) == 1 and len(blocks) == 7
    results = [predictor.predict(block) for block in blocks]
    assert sum(result.windows for result in results) == predictor.grid.windows

    again = BlockPredictor(model, volumes_of(image), first_pass(model, volumes_of(image)))
    for block in (blocks[4], blocks[5], blocks[1], blocks[6]):
        result = again.predict(block)
        assert np.array_equal(result.labels, expected[block.region])
        assert np.array_equal(result.labels, results[block.index].labels)


def test_an_interrupted_block_leaves_nothing_behind(one_volume, few_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model, image, expected = one_volume
    predictor = BlockPredictor(model, volumes_of(image), first_pass(model, volumes_of(image)))
    blocks = block_grid(expected.shape, chunk=(4, 4, 4), size=(21, 4, 19), axis=predictor.grid.rolling_axis)
    network = predictor._predictors[0].network
    calls = []

    def fail_once(*inputs) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return network(*inputs)

    monkeypatch.setattr(predictor._predictors[0], "network", fail_once)
    with pytest.raises(KeyboardInterrupt):
        for block in blocks:
            predictor.predict(block)
    for block in blocks:
        assert np.array_equal(predictor.predict(block).labels, expected[block.region])


def test_sums_move_to_the_cpu_where_the_device_is_full(one_volume, few_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is not there stands in for one without room."""
    model, image, expected = one_volume
    full = {"cuda"}

    def column_with_little_room(*parts, results_device: torch.device, **more) -> Column:
        if results_device.type in full:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.\nTried to allocate")
        return Column(*parts, results_device=results_device, **more)

    monkeypatch.setattr(block_predictor, "Column", column_with_little_room)
    predictor = BlockPredictor(model, volumes_of(image), first_pass(model, volumes_of(image)))
    predictor._results_device = torch.device("cuda")
    blocks = block_grid(expected.shape, chunk=CHUNK, size=(8, 16, 16), axis=predictor.grid.rolling_axis)
    with pytest.warns(UserWarning, match="too little memory for the sums of a block; they are kept in the computer's memory"):
        first = predictor.predict(blocks[0])
    for block, result in ((blocks[0], first), *((block, predictor.predict(block)) for block in blocks[1:])):
        assert np.array_equal(result.labels, expected[block.region])

    full.add("cpu")
    with pytest.raises(RuntimeError, match="too little memory for 1 window") as caught:
        BlockPredictor(model, volumes_of(image), first_pass(model, volumes_of(image))).predict(blocks[0])
    assert "\n" not in str(caught.value)


def test_probabilities_are_those_of_nnunet(tmp_path: Path, few_threads: None) -> None:
    for labels in (LABELS, REGIONS):
        image = CASES["transposed"].image()
        folder = tiny_model(tmp_path / str(len(labels)) / str(labels is LABELS), labels=labels, transpose=(2, 0, 1))
        _, expected = nnunet_labels(folder, image, probabilities=True)
        model = load_model(folder)
        whole = predict_all(model, volumes_of(image), PredictOptions(probabilities=True, entropy=True), size=(8, 16, 16))
        # torch's exponential rounds otherwise at the end of an array, and blocks end elsewhere
        np.testing.assert_allclose(whole["probabilities"], expected, rtol=0, atol=2**-23)
        outside = np.all(image == 0, axis=0)
        assert np.all(whole["entropy"][outside] == 0)
        assert 0 < whole["entropy"].max() <= 1


def test_entropy_and_disagreement(tmp_path: Path, few_threads: None) -> None:
    image = CASES["plain"].image()
    model = load_model(tiny_model(tmp_path, folds=(0, 1)))
    options = PredictOptions(probabilities=True, entropy=True, disagreement=True)
    whole = predict_all(model, volumes_of(image), options, size=(8, 16, 16))
    shares = whole["probabilities"].astype(np.float64)
    entropy = -(shares * np.log(shares)).sum(axis=0) / np.log(3)
    np.testing.assert_allclose(whole["entropy"], entropy, atol=5e-3)

    votes = [predict(load_model(tmp_path, folds=[fold]), volumes_of(image)) != whole["labels"] for fold in (0, 1)]
    assert np.array_equal(whole["disagreement"], np.mean(votes, axis=0).astype(np.float16))
    alone = predict_all(load_model(tmp_path, folds=[0]), volumes_of(image), options, size=image.shape[1:])
    assert alone["disagreement"] is None, "one fold has nobody to disagree with"


RESAMPLED = {
    "both ways": ((1.3, 0.8, 1.1), {"norm": "ZScoreNormalization"}),
    "transposed, two channels and folds": ((0.7, 1.5, 1.5), {"norm": "ZScoreNormalization", "transpose": (2, 0, 1), "channels": 2,
                                                             "folds": (0, 1)}),
    "slice by slice": ((4, 0.8, 1.2), {"norm": "CTNormalization", "spacing": (5, 1, 1)}),
    "2d": ((3, 1.3, 0.9), {"patch": (24, 20), "norm": "RescaleTo01Normalization"}),
}


@pytest.mark.parametrize("smooth", [True, False], ids=["smooth", "noise"])
@pytest.mark.parametrize("name", RESAMPLED)
def test_another_voxel_size_changes_few_labels(name: str, smooth: bool, tmp_path: Path, few_threads: None) -> None:
    spacing, options = RESAMPLED[name]
    image = np.random.default_rng(5).normal(100, 30, (options.get("channels", 1), 22, 32, 26))
    image = (100 + 130 * gaussian_filter(image - 100, (0, 2, 2, 2)) if smooth else image).clip(1, 255).astype(np.uint16)
    image[:, :2] = 0
    folder = tiny_model(tmp_path, **options)
    expected = nnunet_labels(folder, image, spacing, folds=options.get("folds", (0,)))
    model = load_model(folder)
    found = predict(model, volumes_of(image, spacing), size=(8, 16, 32))

    share = np.mean(found != expected)
    dice = [2 * np.sum((found == label) & (expected == label)) / np.sum((found == label).astype(int) + (expected == label))
            for label in np.unique(expected)]
    assert share <= (1e-4 if smooth else 5e-4), "what the documentation states"
    assert min(dice) >= 0.99
    assert np.mean(found != predict(model, volumes_of(image, spacing), size=(24, 32, 26))) <= 1e-4
    assert any("resampled" in reason for reason in describe_exactness(model, volumes_of(image, spacing), AS_NNUNET))


def test_windows_at_once_change_hardly_anything(tmp_path: Path, few_threads: None) -> None:
    image = CASES["two folds, mirrored"].image()
    model = load_model(tiny_model(tmp_path, folds=(0, 1), mirroring=True))
    one = predict(model, volumes_of(image), size=(8, 16, 16))
    three = predict(model, volumes_of(image), PredictOptions(batch=3), size=(8, 16, 16))
    assert np.mean(one != three) < 1e-3


@pytest.mark.parametrize("norm", ["ZScoreNormalization", "CTNormalization", "NoNormalization"])
def test_background_is_skipped_and_nothing_else_changes(norm: str, tmp_path: Path, few_threads: None) -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(1, 21, (2, 40, 40, 44)).astype(np.uint16)  # dark, but not zero
    image[:, 24:, 20:] = rng.normal(120, 30, (2, 16, 20, 44)).clip(22, 255)
    image[0, :24] = 0
    model = load_model(tiny_model(tmp_path, patch=(8, 12, 12), channels=2, norm=norm))
    everything = predict(model, volumes_of(image))
    predictor, found, counts = predict_counting(model, volumes_of(image), PredictOptions(background=20), size=(8, 16, 16))
    assert counts[1] > 0.3 * sum(counts)

    skipped = np.zeros(image.shape[1:], bool)
    for corner in np.array(np.meshgrid(*predictor.grid.starts)).reshape(3, -1).T:
        window = tuple(slice(first, first + length) for first, length in zip(corner, predictor.grid.patch))
        if image[(slice(None), *window)].max() <= 20:
            skipped[window] = True
    assert np.array_equal(found[~skipped], everything[~skipped])
    assert not found[:8, :16].any(), "no window but dark ones reaches there"

    dark = predict_all(model, volumes_of(image), PredictOptions(background=300, probabilities=True, entropy=True), size=(40, 40, 44))
    assert not dark["labels"].any() and np.all(dark["probabilities"][0] == 1) and not dark["entropy"].any()


def test_what_is_not_exact_is_said(tmp_path: Path) -> None:
    image = CASES["plain"].image()
    model = load_model(tiny_model(tmp_path, norm="ZScoreNormalization"))
    assert describe_exactness(model, volumes_of(image), AS_NNUNET) == []
    assert describe_exactness(model, volumes_of(image), PredictOptions(step=1, mirroring=False, probabilities=True)) == []
    fast = PredictOptions(batch=2, background=0, compile=True, precision="bfloat16", device="cuda")
    reasons = describe_exactness(model, volumes_of(image, None), fast)
    assert len(reasons) == 5 and not any("\n" in reason for reason in reasons)
    masked = load_model(tiny_model(tmp_path / "masked", norm="ZScoreNormalization", masked=True))
    cropped = volumes_of(CASES["z-score with a margin"].image())
    reasons = describe_exactness(model, cropped, AS_NNUNET, statistics=first_pass(model, cropped))
    assert len(reasons) == (tuple(map(int, np.__version__.split(".")[:2])) < (2, 4))
    assert ["enclosed" in reason for reason in describe_exactness(masked, volumes_of(image), AS_NNUNET)] == [True]


@pytest.fixture
def few_threads() -> Iterator[None]:
    """Windows this small gain nothing from more threads, and lose much where other processes compute as well."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def predict(model: TrainedModel, volumes: Sequence[Volume], options: PredictOptions = AS_NNUNET, *, size: Sequence[int] | None = None,
            chunk: Sequence[int] = CHUNK, seed: int | None = None) -> np.ndarray:
    return predict_counting(model, volumes, options, size=size or volumes[0].shape, chunk=chunk, seed=seed)[1]


def predict_counting(model: TrainedModel, volumes: Sequence[Volume], options: PredictOptions, *, size: Sequence[int],
                     chunk: Sequence[int] = CHUNK, seed: int | None = None) -> tuple[BlockPredictor, np.ndarray, tuple[int, int]]:
    """All blocks, in their own order or a random one; also how many windows were computed and skipped."""
    predictor = BlockPredictor(model, volumes, first_pass(model, volumes), options)
    blocks = block_grid(volumes[0].shape, chunk=chunk, size=size, axis=predictor.grid.rolling_axis)
    if seed is not None:
        np.random.default_rng(seed).shuffle(blocks)
    labels, windows, skipped = np.full(volumes[0].shape, 99, model.label_dtype), 0, 0
    for block in blocks:
        result = predictor.predict(block)
        labels[block.region] = result.labels
        windows, skipped = windows + result.windows, skipped + result.skipped
    return predictor, labels, (windows, skipped)


def predict_all(model: TrainedModel, volumes: Sequence[Volume], options: PredictOptions, *,
                size: Sequence[int]) -> dict[str, np.ndarray | None]:
    """Labels and everything else that was asked for, put together from blocks."""
    predictor = BlockPredictor(model, volumes, first_pass(model, volumes), options)
    whole: dict[str, np.ndarray | None] = {}
    for block in block_grid(volumes[0].shape, chunk=CHUNK, size=size, axis=predictor.grid.rolling_axis):
        result = predictor.predict(block)
        for name in ("labels", "probabilities", "entropy", "disagreement"):
            part = getattr(result, name)
            if part is None:
                whole[name] = None
                continue
            array = whole.setdefault(name, np.empty((*part.shape[:-3], *volumes[0].shape), part.dtype))
            array[(..., *block.region)] = part
    return whole
