"""Blocks and windows of block-wise prediction, the first pass over a volume, resampling part by part, and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

from nnunet_neuro.predict import float_sums, statistics
from nnunet_neuro.predict.block_predictor import BlockPredictor, first_pass
from nnunet_neuro.predict.memory import choose_block_size, keep_freed_memory, memory_for, network_memory
from nnunet_neuro.predict.model import TrainedModel, load_model
from nnunet_neuro.predict.options import PredictOptions
from nnunet_neuro.predict.resampling import Resampling
from nnunet_neuro.predict.statistics import VolumeStatistics, compute_statistics, nonzero_box
from nnunet_neuro.predict.stored_chunks import stored_chunks, tiles
from nnunet_neuro.predict.windows import block_grid, window_starts
from nnunet_neuro.volumes import open_channels
from nnunet_neuro.volumes.volume import Region, Volume, full_region
from tests.tiny_models import tiny_model, volumes_of

LENGTHS = st.tuples(*[st.integers(1, 40)] * 3)


@settings(max_examples=60, deadline=None)
@given(shape=LENGTHS, chunk=st.tuples(*[st.integers(1, 9)] * 3), size=LENGTHS, axis=st.integers(0, 2))
def test_blocks_cover_every_voxel_once_and_share_no_chunk(shape, chunk, size, axis: int) -> None:
    blocks = block_grid(shape, chunk=chunk, size=size, axis=axis)
    covered = np.zeros(shape, np.uint8)
    for number, block in enumerate(blocks):
        assert block.index == number
        covered[block.region] += 1
        for part, length, step, most in zip(block.region, shape, chunk, size):
            assert part.start % step == 0 and (part.stop % step == 0 or part.stop == length)
            assert part.stop - part.start <= max(most, step)
    assert np.all(covered == 1)
    for before, after in zip(blocks, blocks[1:]):
        if before.column == after.column:
            assert before.region[axis].stop == after.region[axis].start
        else:
            assert after.column == before.column + 1 and after.region[axis].start == 0
            assert before.region[axis].stop == shape[axis]


def test_a_block_may_be_the_whole_volume() -> None:
    assert [block.region for block in block_grid((20, 30, 41), chunk=(8, 8, 8), size=(20, 30, 41))] == [full_region((20, 30, 41), None)]


@pytest.mark.parametrize(("shape", "size", "message"), [((10, 0, 10), (4, 4, 4), "must be positive"),
                                                        ((10**6, 10**6, 8), (8, 8, 8), "blocks of .8, 8, 8.; choose larger ones")])
def test_blocks_that_make_no_sense_are_refused(shape, size, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        block_grid(shape, chunk=(8, 8, 8), size=size)


def test_flat_windows_go_slice_by_slice() -> None:
    assert window_starts(5, 1, 0.5) == [0, 1, 2, 3, 4]
    assert window_starts(110, 64, 0.5) == [0, 23, 46]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), shape=LENGTHS, kind=st.sampled_from(["uint8", "uint16", "int16", "float32", "float64"]), seed=st.integers(0, 99),
       axes=st.permutations(range(3)))
def test_first_pass_gives_numpys_numbers_to_the_last_bit(data, shape, kind: str, seed: int, axes) -> None:
    """As nnU-Net has it: of a float32 array that was transposed and cropped, with gaps between its rows."""
    box = []
    for length in shape:
        first = data.draw(st.one_of(st.just(0), st.integers(0, length - 1)))
        box.append(slice(first, data.draw(st.one_of(st.just(length), st.integers(first + 1, length)))))
    image = np.zeros(shape, kind)
    inside = np.random.default_rng(seed).normal(100, 20, shape)[tuple(box)]
    image[tuple(box)] = np.where(inside < 1, 1, inside)
    with pytest.MonkeyPatch.context() as patch:  # small volumes in as many parts as large ones
        patch.setattr(float_sums, "_VOXELS_AT_ONCE", 1024)
        patch.setattr(statistics, "_VOXELS_AT_ONCE", 500)
        found = compute_statistics(volumes_of(image[None]), [{"mean", "range"}])
    cropped = image.astype(np.float32).transpose(axes)[tuple(box[axis] for axis in axes)]
    numbers = found.channels[0]
    assert found.box == tuple(box)
    expected = (float(cropped.mean()), float(cropped.std()))
    exact = float_sums.follows_numpy(found.box, shape)
    assert (numbers.mean, numbers.deviation) == (expected if exact else pytest.approx(expected, rel=1e-6))
    assert (numbers.minimum, numbers.maximum) == (cropped.min(), cropped.max())
    assert VolumeStatistics.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_very_large_volumes_and_masked_means_use_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_VOXELS_AT_ONCE", 500)
    monkeypatch.setattr(statistics, "MOST_VOXELS_AS_NUMPY", 1000)
    image = np.random.default_rng(0).normal(5000, 3, (2, 20, 30, 25)).astype(np.float32)
    image[:, :5, :, ::2] = 0
    image[:, 0, 0, 0] = 1
    whole, masked = (compute_statistics(volumes_of(image), [{"mean"}] * 2, masked=[flag, flag]) for flag in (False, True))
    for channel in range(2):
        for found, voxels in ((whole, image[channel]), (masked, image[channel][image.any(axis=0)])):
            assert found.channels[channel].mean == np.float32(voxels.mean(dtype=np.float64))
            assert found.channels[channel].deviation == pytest.approx(voxels.std(dtype=np.float64), rel=1e-7)


def test_box_of_several_channels_and_of_nothing() -> None:
    image = np.zeros((2, 12, 14, 16), np.uint8)
    assert nonzero_box(volumes_of(image)) == full_region((12, 14, 16), None), "nnU-Net keeps everything"
    image[0, 3, 4, 5] = image[1, 8, 2, 11] = 1
    assert nonzero_box(volumes_of(image)) == (slice(3, 9), slice(2, 5), slice(5, 12))


def test_numbers_that_are_not_finite_are_found() -> None:
    image = np.ones((1, 12, 14, 16), np.float32)
    image[0, 3, 4, 5] = np.nan
    with pytest.raises(ValueError, match=r"an array holds nan at voxel \(3, 4, 5\) \(z, y, x\); expected finite numbers"):
        compute_statistics(volumes_of(image), [{"mean"}])
    with pytest.raises(ValueError, match="channels have shapes that do not fit"):
        compute_statistics((*volumes_of(image), *volumes_of(image[:, 1:])), [set(), set()])


@settings(max_examples=40, deadline=None)
@given(chunk=st.tuples(*[st.integers(1, 9)] * 3), corner=st.tuples(*[st.integers(0, 12)] * 3), shape=LENGTHS, most=st.integers(1, 3000))
def test_tiles_cover_a_region_once_and_cut_no_chunk(chunk, corner, shape, most: int) -> None:
    chunks = statistics.StoredChunks(chunk, tuple(first % length for first, length in zip(corner, chunk)))
    covered = np.zeros(shape, np.uint8)
    for tile in tiles(full_region(shape, None), chunks, most):
        covered[tile] += 1
        for part, first, step, length in zip(tile, corner, chunk, shape):
            assert part.stop == length or (part.stop + first) % step == 0
    assert np.all(covered == 1)


def test_each_stored_chunk_is_read_once(model: TrainedModel, zarr_volume: Volume) -> None:
    reads: list[Region] = []
    watched = replace(zarr_volume, reader=partial(_recorded, reads, zarr_volume.reader))
    for volume, size in ((watched, watched.shape), (watched.crop((slice(5, 64), slice(0, 40), slice(3, 48))), (16, 40, 45))):
        predictor = BlockPredictor(model, [volume], first_pass(model, [volume]), spacing=(1, 1, 1))
        reads.clear()
        for block in block_grid(volume.shape, chunk=(16, 16, 16), size=size):
            predictor.predict(block)
        # how often each chunk of 16 x 8 x 24 voxels is touched
        touched = Counter((z, y, x) for part in reads for z in _chunks_in(part[0], 16) for y in _chunks_in(part[1], 8)
                          for x in _chunks_in(part[2], 24))
        assert set(touched.values()) == {1}


def test_the_box_of_a_full_volume_costs_few_reads(zarr_volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_VOXELS_OF_A_FACE", 16 * 8 * 24)
    reads: list[Region] = []
    watched = replace(zarr_volume, reader=partial(_recorded, reads, zarr_volume.reader))
    assert nonzero_box([watched]) == full_region(watched.shape, None)
    assert stored_chunks([watched]).lengths == (16, 8, 24)
    assert [tuple(part.stop - part.start for part in region) for region in reads] == [(16, 8, 24)] * 6, "one chunk for each face"


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize(("source", "target"), [((20, 31, 24), (26, 22, 24)), ((30, 14, 17), (12, 40, 23))])
@pytest.mark.parametrize("slice_axis", [None, 0, 2])
def test_resampling_by_parts_is_that_of_nnunet(order: int, source, target, slice_axis: int | None) -> None:
    image = np.random.default_rng(0).normal(size=source).astype(np.float32)
    spacing = [1.0] * 3 if slice_axis is None else [9.0 if axis == slice_axis else 1.0 for axis in range(3)]
    expected = resample_data_or_seg_to_shape(image[None], target, spacing, spacing, order=order, order_z=0,
                                             force_separate_z=slice_axis is not None)[0]
    resampling = Resampling(source, target, order, slice_axis, 0)
    found = np.empty(target)
    for block in block_grid(target, chunk=(7, 7, 7), size=(7, 14, 7)):
        needed = resampling.needed(block.region)
        found[block.region] = resampling(image[needed], [part.start for part in needed], block.region)
    inside = (expected > image.min()) & (expected < image.max())  # nnU-Net cuts what a spline adds beyond that
    difference = np.abs(found - expected)[inside & (np.abs(expected) < 2)]
    assert difference.size > 0.9 * found.size
    assert np.quantile(difference, 0.999) < 1e-5


def test_linear_resampling_between_slices() -> None:
    image = np.random.default_rng(0).normal(size=(9, 12, 10)).astype(np.float32)
    expected = resample_data_or_seg_to_shape(image[None], (14, 17, 8), [9, 1, 1], [9, 1, 1], order=1, order_z=1, force_separate_z=True)[0]
    resampling = Resampling((9, 12, 10), (14, 17, 8), 1, 0, 1)
    for block in block_grid((14, 17, 8), chunk=(5, 5, 5), size=(5, 10, 5)):
        needed = resampling.needed(block.region)
        found = resampling(image[needed], [part.start for part in needed], block.region)
        np.testing.assert_allclose(found, expected[block.region], atol=1e-6)


def test_block_size_fits_the_memory_and_uses_it(model: TrainedModel) -> None:
    shape, chunk = (600, 500, 400), (32, 32, 32)
    sizes = [choose_block_size(model, shape, chunk=chunk, memory_bytes=memory) for memory in (1_250_000_000, 1_500_000_000, 8 * 10**9)]
    assert sizes[2] == (32, 500, 400), "whole slices where they fit"
    areas = [size[1] * size[2] for size in sizes]
    assert areas == sorted(areas) and areas[0] < areas[2]
    assert memory_for(model, sizes[0], shape, chunk=chunk).host <= 1_250_000_000
    longer = memory_for(model, sizes[0], (60_000, 500, 400), chunk=chunk)
    assert longer == memory_for(model, sizes[0], shape, chunk=chunk), "memory does not depend on the length of a column"
    on_gpu = memory_for(model, sizes[2], shape, chunk=chunk, options=PredictOptions(device="cuda"))
    assert on_gpu.device > network_memory(model, 1) and on_gpu.host < memory_for(model, sizes[2], shape, chunk=chunk).host
    with pytest.raises(ValueError, match=r"0\.5 GB of memory are too little for this model, which needs at least 1\.\d GB"):
        choose_block_size(model, shape, chunk=chunk, memory_bytes=2**29)
    with pytest.raises(ValueError, match="of the GPU"):
        choose_block_size(model, shape, chunk=chunk, memory_bytes=2**33, device_bytes=2**10, options=PredictOptions(device="cuda"))


def test_network_memory_where_a_layer_looks_at_numbers(model: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    before = network_memory(model, 2)
    assert before == 2 * network_memory(model, 1) > 0
    network = model.build_network()
    network.register_forward_pre_hook(_look_at_numbers)
    monkeypatch.setattr(TrainedModel, "build_network", lambda self: network.to_empty(device="cpu"))
    assert network_memory(model, 2) == before


def _look_at_numbers(layer: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
    assert inputs[0].sum().item() == 0


_PEAKS = """
import json, sys
import numpy as np, torch
from nnunet_neuro.predict.block_predictor import BlockPredictor, first_pass
from nnunet_neuro.predict.memory import choose_block_size
from nnunet_neuro.predict.model import load_model
from nnunet_neuro.predict.options import PredictOptions
from nnunet_neuro.predict.windows import block_grid
from nnunet_neuro.volumes.volume import Volume
from tests.test_predict_geometry import made_up, peak_memory
torch.set_num_threads(1)
model, options, memory = load_model(sys.argv[1]), PredictOptions(step=1.0), int(sys.argv[2])
peaks = [peak_memory()]
for shape in ((32, 144, 144), (192, 144, 144), (32, 384, 384)):
    volume = Volume("made up", shape, np.dtype(np.uint16), None, made_up)
    size = choose_block_size(model, shape, chunk=(32, 32, 32), memory_bytes=memory, options=options)
    predictor = BlockPredictor(model, [volume], first_pass(model, [volume]), options)
    for block in block_grid(shape, chunk=(32, 32, 32), size=size):
        assert predictor.predict(block).labels.any()
    peaks.append(peak_memory())
print(json.dumps(peaks))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_memory_stays_below_what_was_asked_for(tmp_path: Path) -> None:
    """Measured: a short volume, a long one, and a wide one whose slices do not fit; imports differ between versions of torch."""
    memory = 1_260_000_000
    folder = tiny_model(tmp_path, patch=(32, 48, 48))
    assert choose_block_size(load_model(folder), (32, 384, 384), chunk=(32, 32, 32), memory_bytes=memory,
                             options=PredictOptions(step=1.0)) != (32, 384, 384)
    done = subprocess.run([sys.executable, "-c", _PEAKS, str(folder), str(memory)], capture_output=True, text=True, check=True,
                          cwd=Path(__file__).parents[1])
    imports, short, long, wide = json.loads(done.stdout.splitlines()[-1])
    assert long < 1.06 * short, "all of it in memory would add 26 bytes a voxel"
    assert wide < memory + max(0, imports - 1_000_000_000), "imports took 0.98 GB where the estimate was made"


def peak_memory() -> int:
    """Bytes; the peak that getrusage tells is that of the process which started this one, where it was larger."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def made_up(path: Path | str, region: Region) -> np.ndarray:
    """Voxels that depend on where they are; nothing is stored."""
    z, y, x = np.ogrid[region]
    return ((z * 7919 + y * 104729 + x * 1299709) % 251 + 1).astype(np.uint16)


def test_kept_memory_is_a_matter_of_linux() -> None:
    assert keep_freed_memory() in ((True, False) if sys.platform.startswith("linux") else (False,))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    torch.set_num_threads(1)
    return load_model(tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def zarr_volume(tmp_path: Path) -> Volume:
    """64 x 40 x 48 voxels in chunks of 16 x 8 x 24."""
    image = np.random.default_rng(0).integers(1, 200, (64, 40, 48)).astype(np.uint8)
    array = zarr.open(str(tmp_path / "image.zarr"), mode="w", shape=image.shape, chunks=(16, 8, 24), dtype="uint8")
    array[:] = image
    return open_channels(tmp_path / "image.zarr")[0]


def _recorded(reads: list[Region], reader, path: Path | str, region: Region) -> np.ndarray:
    reads.append(region)
    return reader(path, region)


def _chunks_in(part: slice, length: int) -> range:
    return range(part.start // length, (part.stop - 1) // length + 1)
