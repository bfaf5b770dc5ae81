"""nnneuro_evaluate: measures, regions, classes, fields of use, tolerance, workers, memory and formats."""

import csv
import math
import os

import numpy as np
import pytest
import tifffile

from nnunet_neuro.commands.evaluate import main
from nnunet_neuro.evaluate import measures
from nnunet_neuro.evaluate.fields import DEFAULT, FIELDS, headlines
from nnunet_neuro.evaluate.measures import MEASURES, families
from nnunet_neuro.evaluate.run import Choice
from nnunet_neuro.evaluate.summary import summary_text
from tests.evaluation_cases import SHAPE, Cases, labels, refused


@pytest.fixture
def cases(tmp_path):
    return Cases(tmp_path)


# --- what is measured ---


@pytest.mark.parametrize("field", list(FIELDS))
def test_field_of_use_chooses_families_and_headlines(cases, capsys, field):
    assert cases.run("--for", field) == 0
    found = cases.scores
    assert found["field_of_use"] == field
    assert {one["family"] for one in found["measures"].values()} == set(FIELDS[field].families)
    printed = capsys.readouterr().err
    for name in FIELDS[field].headlines:
        assert name in MEASURES and name.partition("_")[0] in printed


def test_usual_measures_and_those_asked_for(cases):
    usual = cases.evaluate().measured
    assert {one.family for one in usual.values()} == set(DEFAULT.families)
    chosen = cases.evaluate(choice=Choice(measures=("overlap", "clDice")))
    assert list(chosen.measured) == [*(one.name for one in families()["overlap"]), "clDice"]
    assert set(chosen.cases[0].values["axon"]) == set(chosen.measured)
    assert headlines({"VOI": MEASURES["VOI"]}) == ["VOI"]


def test_unknown_measure_class_and_format_are_refused_with_the_choices(cases, capsys):
    folders = [cases.predictions, cases.references]
    assert "'Dize'" in (sentence := refused(capsys, [*folders, "--measures", "Dize"])) and "Dice" in sentence
    assert "no class 'glia'" in (sentence := refused(capsys, [*folders, "--classes", "glia"])) and "axon, soma" in sentence
    assert "no format 'xml'" in refused(capsys, [*folders, "--format", "xml"])
    assert "is made of 'glia'" in refused(capsys, [*folders, "--regions", "all=axon+glia"])
    assert "has the name of a label" in refused(capsys, [*folders, "--regions", "axon=1+2"])
    assert "region 'all' is given twice" in refused(capsys, [*folders, "--regions", "all=1+2", "all=1"])
    assert "0 workers" in refused(capsys, [*folders, "--workers", "0"])


def test_chosen_class_has_the_scores_it_has_among_all(cases):
    both, one = cases.evaluate(), cases.evaluate(choice=Choice(classes=("soma",)))
    assert list(one.names.classes) == ["soma"] and one.pooled["soma"] == both.pooled["soma"]


def test_region_is_measured_as_its_labels_joined(cases, tmp_path):
    found = cases.evaluate(choice=Choice(regions={"tissue": ("axon", "2")}))
    for folder in (cases.predictions, cases.references):
        for path in folder.glob("*.tif"):
            tifffile.imwrite(path, (tifffile.imread(path) > 0).astype(np.uint8))
    joined = cases.evaluate()
    assert found.pooled["tissue"] == joined.pooled["axon"]
    assert cases.run("--regions", "tissue=1+2", "--classes", "tissue") == 0
    assert cases.scores["classes"] == {"tissue": [1, 2]}


def test_regions_of_nnunet_are_measured(cases):
    expected = cases.evaluate(choice=Choice(regions={"whole": ("1", "2")}))
    cases.describe({"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]})
    found = cases.evaluate()
    assert found.pooled["whole"] == expected.pooled["whole"] and found.pooled["core"] == expected.pooled["soma"]
    assert found.names.classes == {"whole": 1, "core": 2}  # as nnU-Net paints them
    cases.describe({"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [2, 1]})
    assert cases.evaluate().pooled["core"] == expected.pooled["soma"]


# --- tolerance and units ---


def test_tolerance_is_a_length_and_two_voxels_by_default(cases):
    two, micrometre, wide = (cases.evaluate(tolerance=tolerance) for tolerance in (None, 1.0, 3.0))
    assert two.tolerance_of(two.cases[0]) == 1.0
    assert two.pooled == micrometre.pooled
    assert wide.pooled["axon"]["clDice_tolerant"] > two.pooled["axon"]["clDice_tolerant"]


def test_lengths_are_in_the_unit_of_the_voxel_size(cases):
    small = cases.evaluate()
    for path in [*cases.predictions.glob("*.json"), *cases.references.glob("*.json")]:
        path.write_text('{"spacing": [6.0, 1.5, 1.5]}')
    large = cases.evaluate()
    for name, one in small.measured.items():
        assert large.mean["axon"][name] == pytest.approx(small.mean["axon"][name] * 3**one.dimension, nan_ok=True)


def test_unknown_voxel_size_and_empty_references_are_told(cases, capsys):
    for path in [*cases.predictions.glob("brain_1.json"), *cases.references.glob("brain_1.json")]:
        path.unlink()
    tifffile.imwrite(cases.references / "brain_2.tif", np.where(labels(2) == 2, 1, labels(2)).astype(np.uint8))
    assert cases.run() == 0
    printed = capsys.readouterr().err
    assert "warning: the voxel size of brain_1 is not known" in printed
    assert "warning: no annotated voxel of soma in the reference of brain_2" in printed
    assert len(cases.scores["warnings"]) == 2 and cases.scores["cases"][1]["spacing_zyx"] is None


# --- how ---


def test_scores_do_not_depend_on_the_number_of_workers(cases, capsys):
    one = cases.evaluate(probabilities=cases.predictions)
    two = cases.evaluate(probabilities=cases.predictions, choice=Choice(workers=2))
    assert [case.values for case in one.cases] == [case.values for case in two.cases]
    assert [case.sha256 for case in one.cases] == [case.sha256 for case in two.cases]
    assert one.pooled == two.pooled
    tifffile.imwrite(cases.references / "brain_1.tif", np.full(SHAPE, 9, np.uint8))
    assert "holds label 9" in refused(capsys, [cases.predictions, cases.references, "--workers", "2"])


def test_small_memory_measures_in_blocks_with_the_same_overlap(cases, capsys):
    assert cases.run() == 0
    whole = cases.scores
    assert cases.run("--memory", "0.2M") == 0
    assert "left out: clDice" in capsys.readouterr().err
    parts = cases.scores
    assert parts["cases"][0]["blocks"] > 1 and "clDice" in parts["left_out_measures"]
    for name in parts["measures"]:
        assert parts["pooled"]["axon"][name] == whole["pooled"]["axon"][name]


def test_only_the_formats_asked_for_are_written(cases):
    out = cases.predictions / "evaluation"
    assert main([str(cases.predictions), str(cases.references), "--format", "csv"]) == 0
    assert os.listdir(out) == ["scores.csv"]
    with (out / "scores.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row["row"] for row in rows} == {"case", "mean_over_cases", "cases_in_mean", "pooled"}


def test_pooled_and_mean_cannot_be_confused(cases):
    """Two cases of unlike size: the two numbers differ, and each stands under its own name."""
    cases.write("brain_3", np.ones((5, 9, 9), np.uint8), np.zeros((5, 9, 9), np.uint8))
    assert cases.run() == 0
    scores, found = cases.scores, cases.evaluate()
    assert scores["mean_over_cases"]["axon"]["Dice"] == found.mean["axon"]["Dice"]
    assert scores["pooled"]["axon"]["Dice"] == found.pooled["axon"]["Dice"] > found.mean["axon"]["Dice"]
    assert scores["deviation_over_cases"]["axon"]["Dice"] == pytest.approx(
        np.std([case.values["axon"]["Dice"] for case in found.cases], ddof=1))
    assert "Dice" not in scores


def test_summary_holds_the_headlines_of_every_class(cases):
    text = summary_text(cases.evaluate())
    assert text.startswith("3 cases, tolerance two voxels")
    for word in ("axon", "soma", "mean", "pooled", "Dice", "more measures are in the files"):
        assert word in text
    assert max(map(len, text.splitlines())) < 120


def test_counts_of_every_measure_can_be_added_and_written(cases):
    found = cases.evaluate(choice=Choice(measures=tuple(families())), probabilities=cases.predictions)
    twice = {name: measures.added(counts, counts) for name, counts in found.pooled_counts.items()}
    assert set(twice) == {"axon", "soma"}
    assert all(not math.isinf(value) for value in found.pooled["axon"].values())
    assert cases.run("--measures", ",".join(families()), "--probabilities", cases.predictions) == 0
