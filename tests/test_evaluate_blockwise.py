"""Evaluation in blocks: the numbers of the whole, in bounded memory, and what cannot be done is said."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import tifffile

from nnunet_neuro.evaluate.blockwise import BYTES_PER_VOXEL, block_size
from nnunet_neuro.evaluate.fields import DEFAULT, FIELDS
from nnunet_neuro.evaluate.measures import MEASURES, families
from nnunet_neuro.evaluate.run import Choice, evaluate_folders
from nnunet_neuro.evaluate.summary import summary_text

SHAPE = (14, 26, 30)
SPACING = (2.0, 1.0, 1.25)
BLOCKS = [(5, 9, 30), (6, 7, 8), (1, 26, 30), (14, 26, 30)]
EVERYTHING = Choice(measures=tuple(families()), regions={"both": ("axon", "2")})

WITH_SURFACES = ("overlap", "centrelines", "surfaces")  # which an ignore label leaves out otherwise


def labels(seed):
    """Labels 0, 1 and 2 in objects that any cut goes through; a thread of label 1 from end to end."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 1.3)
    found = np.digitize(smooth, np.quantile(smooth, [0.8, 0.92])).astype(np.uint8)
    found[7, 13] = 1
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One case with ignored voxels, anisotropic voxels and probabilities."""
    root = tmp_path_factory.mktemp("case")
    reference, prediction = labels(0), np.roll(labels(0), 1, axis=2)
    prediction[:, :10] = labels(1)[:, :10]
    reference[:, :6, :8] = 3
    reference[2:5, 20:] = 3
    probabilities = np.full((3, *SHAPE), 0.1, np.float32)
    np.put_along_axis(probabilities, prediction[None].astype(int), np.float32(0.8), axis=0)
    (root / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "axon": 1, "soma": 2, "ignore": 3}}))
    for name, voxels in (("predictions", prediction), ("labelsTr", reference)):
        (root / name).mkdir()
        tifffile.imwrite(root / name / "brain.tif", voxels)
        (root / name / "brain.json").write_text(json.dumps({"spacing": SPACING}))
    np.savez_compressed(root / "predictions" / "brain.npz", probabilities=probabilities)
    return root


def evaluated(folder, choice=EVERYTHING, **options):
    return evaluate_folders(folder / "predictions", folder / "labelsTr", probabilities=folder / "predictions", choice=choice,
                            progress=False, **options)


@pytest.fixture(scope="module")
def whole(folder):
    return evaluated(folder)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_measure_in_blocks_equals_the_whole_exactly(folder, whole, block):
    found = evaluated(folder, replace(EVERYTHING, block=block))
    case, expected = found.cases[0], whole.cases[0]
    assert case.blocks == math.prod(-(-length // size) for length, size in zip(SHAPE, block))
    assert set(case.values["axon"]) == set(MEASURES) and set(case.values) == {"axon", "soma", "both"}
    assert case.annotated == expected.annotated
    for name, values in expected.values.items():
        differing = {key: (value, case.values[name][key]) for key, value in values.items()
                     if not (value == case.values[name][key] or math.isnan(value) and math.isnan(case.values[name][key]))}
        assert not differing


def test_memory_too_small_for_the_whole_leaves_out_what_needs_it_and_says_so(folder, whole):
    memory = BYTES_PER_VOXEL["halo"] * math.prod(SHAPE) - 1
    found = evaluated(folder, replace(EVERYTHING, memory=memory))
    needing = {name for name, one in MEASURES.items() if one.counts.surroundings == "whole"}
    assert needing and set(found.left_out_measures) >= needing
    in_blocks = {name for name, one in MEASURES.items() if one.counts.surroundings == "none"}
    assert in_blocks <= set(found.measured) == set(MEASURES) - set(found.left_out_measures)
    for name in found.measured:
        assert found.pooled["axon"][name] == pytest.approx(whole.pooled["axon"][name], rel=0, abs=0, nan_ok=True)
    assert "left out: clDice" in summary_text(found)
    assert all("brain would have to be in memory as a whole" in reason and "--memory" in reason
               for reason in found.left_out_measures.values())


def test_left_out_measures_are_in_the_files(folder, tmp_path):
    choice = Choice(WITH_SURFACES, memory=BYTES_PER_VOXEL["halo"] * math.prod(SHAPE) - 1)
    evaluated(folder, choice, out=tmp_path / "out", formats=["json", "csv"])
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert "clDice" in scores["left_out_measures"] and "clDice" not in scores["mean_over_cases"]["axon"]
    assert scores["cases"][0]["blocks"] > 1
    assert any("the report draws" in warning for warning in scores["warnings"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["scores.csv", "scores.json"]


def test_measure_that_one_case_is_too_large_for_is_left_out_of_all(folder, whole, tmp_path):
    """No mean is of other cases than its neighbour in the table."""
    for name in ("predictions", "labelsTr"):
        (tmp_path / name).mkdir()
        for file in (folder / name).glob("brain.*"):
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
        tifffile.imwrite(tmp_path / name / "small.tif", labels(2)[:5, :12, :12])
    found = evaluate_folders(tmp_path / "predictions", tmp_path / "labelsTr", dataset_json=folder / "dataset.json", progress=False,
                             choice=Choice(WITH_SURFACES, memory=BYTES_PER_VOXEL["halo"] * math.prod(SHAPE)),
                             out=tmp_path / "out", formats=["json"])
    assert [case.blocks for case in found.cases] == [1, 1] and "clDice" in found.left_out_measures
    assert all(set(case.values["axon"]) == set(found.measured) for case in found.cases)
    assert found.cases_in_mean["axon"]["NSD"] == 2 and not any("skeleton" in name for name in found.pooled_counts["axon"])
    assert found.cases[0].values["axon"]["NSD"] == whole.pooled["axon"]["NSD"]


def test_whole_steps_alone_are_left_out_where_the_rest_fits(folder, whole):
    found = evaluated(folder, replace(EVERYTHING, memory=BYTES_PER_VOXEL["whole"] * math.prod(SHAPE) - 1))
    assert set(found.left_out_measures) == {name for name, one in MEASURES.items() if one.counts.surroundings == "whole"}
    for name in found.measured:
        assert found.pooled["both"][name] == pytest.approx(whole.pooled["both"][name], rel=0, abs=0, nan_ok=True)


def test_blocks_have_as_many_voxels_as_allowed_with_their_halo():
    for shape, most, halo in (((4000, 2000, 2000), 50_000_000, (12, 12, 12)), ((100, 20_000, 20_000), 10_000_000, (6, 12, 12)),
                              ((300, 300, 300), 3_000_000, (24, 24, 24)), ((1, 90_000, 90_000), 10_000_000, (12, 12, 12)),
                              ((500, 500, 500), 40_000_000, (0, 0, 0))):
        size = block_size(shape, most, halo=halo)
        seen = [min(length, side + 2 * more) for length, side, more in zip(shape, size, halo)]
        assert all(1 <= side <= length for side, length in zip(size, shape))
        assert math.prod(seen) <= most
        assert math.prod(seen) < 6 * math.prod(size)


def test_large_distances_are_found_beyond_the_first_halo(folder, tmp_path):
    """The prediction lies far from the reference: the halo is doubled until it reaches over."""
    for name, plane in (("predictions", 2), ("labelsTr", 90)):
        voxels = np.zeros((100, 12, 12), np.uint8)
        voxels[plane, 3:9, 3:9] = 1
        (tmp_path / name).mkdir()
        tifffile.imwrite(tmp_path / name / "brain.tif", voxels)
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "axon": 1}}')
    expected, found = (evaluate_folders(tmp_path / "predictions", tmp_path / "labelsTr", progress=False,
                                        choice=Choice(measures=("surfaces",), block=block)) for block in (None, (4, 12, 12)))
    assert found.pooled == expected.pooled
    assert not found.left_out_measures and found.cases[0].blocks == 25


def test_ids_of_objects_are_global(tmp_path):
    """Given ids are taken as they are, in blocks too: two touching objects stay two."""
    ids = np.zeros((8, 20, 20), np.uint64)
    ids[:, 2:10, 2:18], ids[:, 10:18, 2:18] = 5, 2**60
    for name in ("predictions", "labelsTr"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "cells.npy", ids)
    choices = [Choice(measures=("objects", "partition", "overlap"), instances=True, block=block) for block in (None, (3, 7, 20))]
    expected, found = (evaluate_folders(tmp_path / "predictions", tmp_path / "labelsTr", choice=choice, progress=False)
                       for choice in choices)
    assert list(found.names.classes) == ["object"]
    assert found.pooled == expected.pooled
    assert found.pooled["object"]["object_F1_IoU50"] == found.pooled["object"]["Dice"] == 1
    merged = np.where(ids > 0, 7, 0)
    np.save(tmp_path / "predictions" / "cells.npy", merged)
    joined = evaluate_folders(tmp_path / "predictions", tmp_path / "labelsTr", choice=choices[1], progress=False)
    assert joined.pooled["object"]["Dice"] == 1 and joined.pooled["object"]["object_F1_IoU75"] == 0


def test_fields_of_use_name_what_there_is():
    for one in (DEFAULT, *FIELDS.values()):
        assert set(one.families) <= set(families())
        assert {MEASURES[name].family for name in one.headlines} <= set(one.families)
