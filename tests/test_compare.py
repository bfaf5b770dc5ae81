"""nnneuro_compare: what it computes and refuses; its statistics and its files have their own tests."""

import math

import numpy as np
import pytest

from nnunet_neuro.commands.compare import main
from nnunet_neuro.evaluate.comparison import statistics
from nnunet_neuro.evaluate.comparison.compare import compare_models
from nnunet_neuro.evaluate.comparison.figures import box_picture
from nnunet_neuro.evaluate.comparison.latex import comparison_tex
from nnunet_neuro.evaluate.comparison.notes import notes, reading
from nnunet_neuro.evaluate.comparison.page import comparison_page
from nnunet_neuro.evaluate.comparison.tables import comparison_text
from tests.compare_scores import Scores, declaration, drawn, raters, three


@pytest.fixture
def scores(tmp_path):
    return Scores(tmp_path)


def test_summary_and_pairs_by_hand(scores):
    words = [scores.write("a", {"Dice": [0.5, 0.6, 0.7, 0.8, 0.9]}), scores.write("b", {"Dice": [0.6, 0.7, 0.8, 0.9, 0.95]})]
    found = compare_models(words, progress=False)
    first, second = found.summaries
    assert (first.mean, first.cases, first.best) == (pytest.approx(0.7), 5, False)
    assert first.sd == pytest.approx(np.std([0.5, 0.6, 0.7, 0.8, 0.9], ddof=1))
    assert second.mean == pytest.approx(0.79) and second.best and second.low < 0.79 < second.high
    (pair,) = found.pairs
    assert (pair.model, pair.other, pair.better) == ("b", "a", "b") and pair.difference == pytest.approx(0.09)
    assert pair.wilcoxon_p == pair.permutation_p == pair.smallest_p == pair.wilcoxon_p_holm == 2 / 32
    assert pair.rank_biserial == 1 and pair.cohens_d_z == pytest.approx(0.09 / np.std([0.1, 0.1, 0.1, 0.1, 0.05], ddof=1))
    assert not pair.significant and any("no p-value can be below 0.0625" in note for note in notes(found))


def test_few_cases_say_so_and_many_do_not(scores):
    few = compare_models([scores.write(name, {"Dice": drawn(seed, cases=7)}) for seed, name in enumerate("abc")], progress=False)
    (only,) = notes(few)  # 3 times 2 / 2^7 is below 0.05
    assert "With 7 cases a bootstrap interval is too narrow" in only
    fewer = compare_models([scores.write(name, {"Dice": drawn(seed, cases=6)}) for seed, name in enumerate("def")], progress=False)
    assert any("With 6 cases no p-value can be below 0.0312, and after Holm's correction for 3 comparisons none below 0.0938" in note
               for note in notes(fewer))
    many = compare_models([scores.write(name, {"Dice": drawn(seed, cases=20)}) for seed, name in enumerate("ghi")], progress=False)
    assert notes(many) == []


def test_all_pairs_or_against_the_baseline(scores):
    words = three(scores)
    found = compare_models(words, progress=False)
    assert [(pair.model, pair.other) for pair in found.pairs] == [("better", "base"), ("same", "base"), ("same", "better")]
    assert [pair.significant for pair in found.pairs] == [True, False, True]
    assert [pair.wilcoxon_p_holm for pair in found.pairs] == statistics.holm([pair.wilcoxon_p for pair in found.pairs])
    baseline = compare_models(words, baseline="better", progress=False)
    assert [(pair.model, pair.other) for pair in baseline.pairs] == [("base", "better"), ("same", "better")]
    assert {pair.better for pair in baseline.pairs} == {"better"}
    assert baseline.pairs[0].difference == pytest.approx(-found.pairs[0].difference)
    assert baseline.pairs[0].wilcoxon_p == found.pairs[0].wilcoxon_p


def test_holm_counts_every_class_and_measure(scores):
    base, length, classes = drawn(0), drawn(1, mean=0.5), ("axon", "soma")
    words = [scores.write("a", {"Dice": base, "HD95": length}, classes=classes),
             scores.write("b", {"Dice": [value + 0.01 for value in base], "HD95": [0.9 * value for value in length]}, classes=classes)]
    found = compare_models(words, measures=("Dice", "HD95"), progress=False)
    assert len(found.pairs) == 4
    assert all(pair.wilcoxon_p_holm == pytest.approx(4 * pair.wilcoxon_p) for pair in found.pairs)
    assert {pair.better for pair in found.pairs} == {"b"}, "a lower distance is better"
    one = compare_models(words, measures=("HD95",), classes=("soma",), progress=False)
    assert [pair.wilcoxon_p_holm for pair in one.pairs] == [one.pairs[0].wilcoxon_p]
    assert [summary.best for summary in one.summaries] == [False, True]
    assert any("in powers of the unit of the voxel size" in sentence for sentence in reading(one))


def test_where_no_direction_is_better_the_nearest_to_perfect_is_best(scores):
    words = [scores.write("a", {"volume_similarity": [-0.3, -0.2]}), scores.write("b", {"volume_similarity": [0.1, 0.2]})]
    found = compare_models(words, measures=("volume_similarity",), progress=False)
    assert [one.best for one in found.summaries] == [False, True] and found.pairs[0].better == "b"


def test_undefined_values_are_left_out_pairwise_and_named(scores):
    values = [0.5, 0.6, 0.7, 0.8]
    words = [scores.write("a", {"Dice": [None, *values]}), scores.write("b", {"Dice": [0.1, 0.6, 0.7, 0.8, 0.9]}),
             scores.write("c", {"Dice": [None] * 5})]
    found = compare_models(words, progress=False)
    assert [one.cases for one in found.summaries] == [4, 5, 0] and found.summaries[0].mean == pytest.approx(0.65)
    pair, none = found.pairs[0], found.pairs[1]
    assert (pair.cases, pair.difference) == (4, pytest.approx(0.1))
    assert none.cases == 0 and math.isnan(none.wilcoxon_p) and none.better == ""
    assert pair.wilcoxon_p_holm == pair.wilcoxon_p, "what was not tested is no test"
    assert any("Dice of axon in 1 of a, 5 of c" in note and "look better by failing" in note for note in notes(found))
    assert "–" in comparison_text(found) and "--" in comparison_tex(found)
    assert "undefined in every case" in comparison_page(found)


def test_differences_of_rounding_are_none(scores):
    words = [scores.write("a", {"Dice": [0.1 + 0.2, 0.5]}), scores.write("b", {"Dice": [0.3, 0.5]})]
    (pair,) = compare_models(words, progress=False).pairs
    assert (pair.difference, pair.wilcoxon_p, pair.permutation_p, pair.rank_biserial, pair.better) == (0, 1, 1, 0, "")


def table(path, groups, *, header="case,split,group"):
    path.write_text("\n".join([header, *(f"case_{index:02d},train,{group}" for index, group in enumerate(groups))]) + "\n")
    return path


def test_groups_are_the_units(scores, tmp_path):
    """Twelve cases of four animals that differ from each other: the cases alone look like more evidence than they are."""
    base = drawn(0)
    words = [scores.write("a", {"Dice": base}),
             scores.write("b", {"Dice": [value + 0.02 * (index % 4 + 1) + 0.001 * index for index, value in enumerate(base)]})]
    by_case = compare_models(words, progress=False).pairs[0]
    found = compare_models(words, groups=table(tmp_path / "cases.csv", "wxyz" * 3), progress=False)
    pair = found.pairs[0]
    assert (pair.cases, pair.units, pair.smallest_p) == (12, 4, 2 / 16)
    assert pair.difference == pytest.approx(by_case.difference)
    assert pair.wilcoxon_p == pair.permutation_p == 2 / 16 and by_case.wilcoxon_p < 0.01
    assert pair.high - pair.low > by_case.high - by_case.low
    assert any("With 4 groups no p-value can be below 0.125" in note for note in notes(found))
    alone = compare_models(words, groups=table(tmp_path / "cases.csv", "abcdefghijkl"), progress=False).pairs[0]
    assert alone == by_case, "a group for each case is no grouping"


def test_same_seed_same_comparison(scores):
    words = three(scores)
    first, again, other = (compare_models(words, seed=seed, progress=False) for seed in (1, 1, 2))
    assert first.summaries == again.summaries and first.pairs == again.pairs
    assert first.summaries != other.summaries


def test_models_against_several_raters(scores):
    found = compare_models(raters(scores), progress=False)
    assert (found.models, found.raters) == (["unet", "attention"], ["STAPLE", "manual"])
    assert [(one.rater, one.model) for one in found.summaries] == [("STAPLE", "unet"), ("STAPLE", "attention"), ("manual", "unet"),
                                                                   ("manual", "attention")]
    assert [(pair.rater, pair.model) for pair in found.pairs] == [("STAPLE", "attention"), ("manual", "attention")]
    words = box_picture(found, "Dice").alternative
    assert words.count("median") == 4 and "Dice of axon against manual, attention: median" in words
    assert r"\emph{axon against manual}" in comparison_tex(found)


# --- bad input ---------------------------------------------------------------------------------------------------------------------


def refused(words, capsys, *options):
    assert main([*words, *options]) == 2
    sentence = capsys.readouterr().err.strip()
    assert sentence.startswith("nnneuro_compare: error: ") and "\n" not in sentence and "Traceback" not in sentence
    return sentence


def set_in(document, *keys):
    *path, last, value = keys
    for key in path:
        document = document[key]
    document[last] = value


@pytest.mark.parametrize(("change", "expected"), [
    (lambda document: document["cases"].pop(), "better has no scores of case case_11, which base has"),
    (lambda document: set_in(document, "cases", 0, "reference", "sha256", "x"), "other references of case case_00 (the SHA-256 differ)"),
    (lambda document: set_in(document, "tolerance", 3.0), "base was measured with tolerance None, better with tolerance 3.0"),
    (lambda document: set_in(document, "cases", 1, "tolerance", 3.0), "case case_01 of base was measured with tolerance 2.0"),
    (lambda document: set_in(document, "cases", 1, "spacing_zyx", None), "spacing_zyx None"),
    (lambda document: set_in(document, "classes", "axon", 2), "base has the labels axon 1, better has axon 2"),
    (lambda document: set_in(document, "measures", "Dice", declaration(reference_empty=None)), "different definitions of Dice"),
    (lambda document: set_in(document, "measures", {}), "has no case, class or measure"),
    (lambda document: set_in(document, "cases", []), "has no case, class or measure"),
    (lambda document: document["cases"].append(document["cases"][0]), "has a case twice"),
    (lambda document: set_in(document, "cases", 0, "classes", "axon", "measures", "Dice", "high"), "holds no scores of nnneuro_evaluate"),
    (lambda document: set_in(document, "cases", 0, "classes", "axon", "measures", "Dice", 10**400), "holds no scores of nnneuro_evaluate"),
    (lambda document: document.pop("classes"), "holds no scores of nnneuro_evaluate"),
])
def test_scores_that_cannot_be_compared_are_refused(scores, capsys, tmp_path, change, expected):
    words = three(scores)
    Scores.change(words[1], change)
    assert expected in refused(words, capsys, "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_what_is_given_wrongly_is_refused(scores, capsys, tmp_path):
    words = three(scores)
    folder = words[0].partition("=")[2]
    assert "does not name a model" in refused([folder, words[1]], capsys)
    assert "does not name a model" in refused([f"a/={folder}", words[1]], capsys)
    assert "'a=' does not name a model" in (sentence := refused(["a=", words[1]], capsys)) and sentence.endswith("such as baseline=a")
    assert "only the model base is given" in refused(words[:1], capsys)
    assert "base is given twice" in refused([words[0], *words], capsys)
    assert "no folder or file" in refused([words[0], f"b={tmp_path / 'none'}"], capsys)
    assert "no scores.json in" in refused([words[0], f"b={tmp_path}"], capsys)
    assert "no measure 'dice' in all scores; expected some of Dice" in refused(words, capsys, "--measures", "dice")
    assert "no class 'soma'" in refused(words, capsys, "--classes", "soma")
    assert "no model 'best'" in refused(words, capsys, "--baseline", "best")
    assert "no format 'pdf'; expected some of json,csv,tex,html" in refused(words, capsys, "--format", "csv,pdf")
    assert "seed is -1" in refused(words, capsys, "--seed", "-1")
    (tmp_path / "file").write_text("x")
    assert "is a file; expected a folder" in refused(words, capsys, "--out", str(tmp_path / "file"))
    assert f"{tmp_path / 'file'} is a file; expected a folder" in refused(words, capsys, "--out", str(tmp_path / "file" / "deep"))
    broken = tmp_path / "broken.json"
    broken.write_bytes(b"\xff\x00{")
    assert "holds no scores of nnneuro_evaluate" in refused([words[0], f"b={broken}"], capsys)


def test_raters_that_do_not_match_are_refused(scores, capsys):
    words = raters(scores)
    assert "attention lacks rater manual" in refused(words[:3], capsys)
    assert "attention lacks an evaluation without rater" in refused([words[0], scores.write("unet", {"Dice": drawn(0)}), words[2]], capsys)
    Scores.change(words[1], lambda document: set_in(document, "cases", 3, "prediction", "sha256", "x"))
    assert "unet/STAPLE and unet/manual are of other predictions of case case_03" in refused(words, capsys)


def test_groups_that_do_not_fit_are_refused(scores, capsys, tmp_path):
    words, path = three(scores), tmp_path / "cases.csv"
    assert "no table of groups" in refused(words, capsys, "--groups", str(path))
    table(path, "ab" * 6, header="case,split,animal")
    assert "has the columns case, split, animal; expected case and group" in refused(words, capsys, "--groups", str(path))
    table(path, "ab" * 5)
    assert "has no group of case case_10 (and 1 more)" in refused(words, capsys, "--groups", str(path))
    table(path, "a" * 12)
    assert "all cases are of the group a" in refused(words, capsys, "--groups", str(path))
    path.write_text(table(path, "ab" * 6).read_text() + "case_00,train,b\n")
    assert "has case case_00 in the groups a and b" in refused(words, capsys, "--groups", str(path))
    path.write_bytes("case,group\ncase_00,a\n".encode("utf-16"))
    assert "is no CSV table in UTF-8" in refused(words, capsys, "--groups", str(path))


def test_the_same_folder_twice_is_noticed(scores):
    word = three(scores)[0]
    found = compare_models([word, f"copy={word.partition('=')[2]}"], progress=False)
    assert any("base and copy have the same predictions" in note for note in notes(found))


def test_cases_are_paired_by_name_not_by_place(scores):
    words = three(scores)
    expected = compare_models(words, progress=False)
    Scores.change(words[1], lambda document: document["cases"].reverse())
    assert compare_models(words, progress=False).pairs == expected.pairs


def test_only_measures_that_all_have_can_be_compared(scores, capsys):
    words = [scores.write("a", {"Dice": drawn(0), "HD95": drawn(1)}), scores.write("b", {"Dice": drawn(2)})]
    assert "no measure 'HD95' in all scores; expected some of Dice" in refused(words, capsys, "--measures", "HD95")
