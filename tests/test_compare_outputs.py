"""The files of nnneuro_compare: JSON, CSV, LaTeX and the page."""

import base64
import csv
import itertools
import json
import math
import re
import shutil
import subprocess

import numpy as np
import pytest
import tifffile

from nnunet_neuro.commands.compare import main
from nnunet_neuro.evaluate.comparison.compare import compare_models, printed
from nnunet_neuro.evaluate.comparison.figures import difference_pictures
from nnunet_neuro.evaluate.comparison.latex import comparison_tex, escaped
from nnunet_neuro.evaluate.comparison.page import comparison_page
from nnunet_neuro.evaluate.run import evaluate_folders
from tests.compare_scores import Scores, drawn, three
from tests.html_page import Page


@pytest.fixture
def scores(tmp_path):
    return Scores(tmp_path)


def test_writes_every_format_and_prints_the_paths(scores, tmp_path, capsys):
    assert main([*three(scores), "--baseline", "base", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert said.out.split() == [str(tmp_path / "out" / f"comparison.{ending}") for ending in ("json", "csv", "tex", "html")]
    assert "better - base" in said.err and "***" in said.err
    with (tmp_path / "out" / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    document = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [row["row"] for row in rows] == ["model"] * 3 + ["pair"] * 2
    for row, entry in zip(rows, [*document["summaries"], *document["pairs"]], strict=True):
        assert row["class"] == entry["class"] == "axon" and row["model"] == entry["model"]
        for key in ("mean", "low", "difference", "wilcoxon_p_holm", "cohens_d_z"):
            assert row[key] == "" if key not in entry else float(row[key]) == pytest.approx(entry[key], rel=1e-5)
    assert document["baseline"] == "base" and len(document["models"][0]["sha256"]) == 64 and len(document["cases"]) == 12


def test_only_the_formats_asked_for(scores, tmp_path, capsys):
    assert main([*three(scores), "--format", "csv,tex", "--out", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["comparison.csv", "comparison.tex"]


def test_latex_names_are_escaped_and_rows_are_whole(scores):
    words = [scores.write("a_b & 50% $x^2$ {#}~\\", {"Dice": drawn(0)}, classes=("µm <axon>", "soma")),
             scores.write("[c]", {"Dice": [value + 0.05 for value in drawn(0)]}, classes=("µm <axon>", "soma"))]
    text = comparison_tex(compare_models(words, progress=False))
    assert r"a\_b \& 50\% \$x\textasciicircum{}2\$ \{\#\}\textasciitilde{}\textbackslash{} & " in text
    assert r"\emph{\textmu{}m \textless{}axon\textgreater{}}" in text and "\n{[}c] & " in text
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1 and text.count(r"\midrule") == 2
    body = re.sub(r"\\[\\&%$#_{}]", "", text)
    assert body.count("{") == body.count("}") and body.count("$") % 2 == 0
    rows = [line for line in text.splitlines() if "pm" in line and line.endswith(r"\\")]
    assert len(rows) == 4 and all(re.sub(r"\\&", "", row).count("&") == 1 for row in rows)
    assert rows[0].count("^{***}") == 1 and rows[1].count(r"\textbf") == 1, "the worse one is marked, the better one bold"


def test_latex_of_a_lower_distance(scores):
    words = [scores.write("a", {"HD95": drawn(0)}), scores.write("b", {"HD95": [value + 1 for value in drawn(0)]})]
    text = comparison_tex(compare_models(words, measures=("HD95",), progress=False))
    assert re.search(r"^a & \\textbf\{0\.\d{3}\} \$\\pm\$ ", text, re.MULTILINE) and r"\textbf{1" not in text


def test_numbers_are_printed_alike():
    assert [printed(value) for value in (0.12345, -0.0001, 123.456, math.nan, -1.0)] == ["0.123", "0.000", "123.5", "–", "-1.000"]
    assert escaped("plain") == "plain"


@pytest.fixture
def page(scores):
    return comparison_page(compare_models([scores.write("_a & <b>", {"Dice": drawn(0), "HD95": drawn(2)}),
                                           scores.write("$c$", {"Dice": drawn(1), "HD95": drawn(3)})], measures=("Dice", "HD95"),
                                          progress=False))


def test_page_is_one_well_formed_file_that_a_keyboard_and_a_screen_reader_can_use(page):
    parsed = Page(page)
    assert parsed.open == [] and not {"script", "link", "iframe"} & {tag for tag, _ in parsed.tags}
    anchors = {attributes["id"] for _, attributes in parsed.tags if "id" in attributes}
    links = [attributes["href"] for tag, attributes in parsed.tags if tag == "a"]
    assert links[0] == "#main" and all(link[1:] in anchors for link in links)
    pictures = [attributes for tag, attributes in parsed.tags if tag == "img"]
    assert len(pictures) == 4 and all(len(one["alt"]) > 60 for one in pictures)
    assert all(base64.b64decode(one["src"].partition(",")[2], validate=True).startswith(b"\x89PNG") for one in pictures)
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(after <= before + 1 for before, after in itertools.pairwise(levels))
    regions = [attributes for tag, attributes in parsed.tags if attributes.get("class") == "wide"]
    assert len(regions) == 5 and all(one["tabindex"] == "0" and one["aria-label"] for one in regions)
    assert all("scope" in attributes for tag, attributes in parsed.tags if tag == "th")
    assert "_a & <b>" in parsed.text and "url(" not in page and len(page) < 500_000


def test_page_opens_in_a_browser(page, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs chromium")
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,900",
                    f"--user-data-dir={tmp_path / 'user'}", f"--screenshot={tmp_path / 'page.png'}", (tmp_path / "page.html").as_uri()],
                   check=True, capture_output=True, timeout=120)
    from skimage.io import imread

    shown = imread(tmp_path / "page.png")[..., :3]
    assert shown.shape[1] == 1200 and 0.03 < np.mean((shown < 240).any(axis=-1)) < 0.6
    blue, orange = ((np.abs(shown.astype(int) - colour).max(axis=-1) < 12).sum() for colour in ((0, 114, 178), (230, 159, 0)))
    assert min(blue, orange) > 300, "both models' boxes are drawn"


def test_many_pairs_are_shown_in_several_pictures(scores):
    words = [scores.write(f"m{seed}", {"Dice": drawn(seed, cases=4)}, classes=("a", "b", "c")) for seed in range(6)]
    found = compare_models(words, progress=False)
    pictures = difference_pictures(found, "Dice")
    assert len(found.pairs) == 45 and len(pictures) == 2
    assert "and 28 more, as in the tables below" in pictures[0].alternative


def test_scores_of_nnneuro_evaluate_are_compared(tmp_path, capsys):
    references, models = tmp_path / "labelsTs", (tmp_path / "one", tmp_path / "two")
    for folder in (references, *models):
        folder.mkdir()
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "axon": 1}}')
    for number in range(6):
        reference = np.zeros((6, 20, 20), np.uint8)
        reference[1:3, 5:15, 3:12 + number] = 1
        for folder, shift in ((references, 0), (models[0], 1), (models[1], 3)):
            tifffile.imwrite(folder / f"c{number}.tif", np.roll(reference, shift, axis=1))
    made = [evaluate_folders(folder, references, out=folder / "evaluation", formats=["json"], progress=False) for folder in models]
    words = [f"one={models[0]}", f"two={models[1] / 'evaluation' / 'scores.json'}"]
    assert main([*words, "--measures", "Dice,recall", "--out", str(tmp_path / "out")]) == 0
    found = compare_models(words, progress=False)
    assert [one.mean for one in found.summaries] == pytest.approx([one.mean["axon"]["Dice"] for one in made])
    assert found.pairs[0].better == "one" and found.pairs[0].wilcoxon_p == 2 / 64
