"""The report page, its pictures, and the training curves it draws."""

import base64
import io
import itertools
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

from nnunet_neuro.colours import class_colour
from nnunet_neuro.evaluate import report_voxels
from nnunet_neuro.evaluate.fields import headlines
from nnunet_neuro.evaluate.figures import painted
from nnunet_neuro.evaluate.label_names import LabelNames
from nnunet_neuro.evaluate.measures import MEASURES, families, selected
from nnunet_neuro.evaluate.plots import class_picture
from nnunet_neuro.evaluate.report import BEST, WORST, pictured_cases, report_page
from nnunet_neuro.evaluate.report_guide import guide
from nnunet_neuro.evaluate.report_pictures import ERROR_COLOURS
from nnunet_neuro.evaluate.report_tables import overview_tables
from nnunet_neuro.evaluate.report_values import ranked_cases, value_text
from nnunet_neuro.evaluate.report_voxels import KINDS
from nnunet_neuro.evaluate.run import Choice, evaluate_folders
from nnunet_neuro.evaluate.training_log import merge_logs, parse_log, read_training
from nnunet_neuro.skeletons import compare_skeletons
from tests.html_page import Page


def log(epochs, *, shift=0.0, numpy_2=True):
    """What nnU-Net 2.8.1 writes; numpy 2 prints its scalars with their type."""
    scalar = "np.float32({:.4f})" if numpy_2 else "{:.4f}"
    lines = ["", "#######", "Please cite the following paper when using nnU-Net:", ""]
    for epoch in epochs:
        stamp = f"2026-03-04 10:00:{epoch % 60:02d}.123456:"
        dice = ", ".join([scalar.format(0.01 * epoch + shift), "nan" if not numpy_2 else "np.float64(nan)"])
        lines += [
            f"{stamp}  ",
            f"{stamp} Epoch {epoch} ",
            f"{stamp} Current learning rate: 0.01 ",
            f"{stamp} train_loss {-0.01 * epoch + shift:.4f} ",
            f"{stamp} val_loss {-0.02 * epoch + shift:.4f} ",
            f"{stamp} Pseudo dice [{dice}] ",
            f"{stamp} Epoch time: 12.5 s ",
        ]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    fold = tmp_path_factory.mktemp("training") / "results" / "nnUNetTrainer__nnUNetPlans__3d_fullres" / "fold_0"
    fold.mkdir(parents=True)
    (fold / "training_log_2026_3_4_10_00_00.txt").write_text(log(range(7)))
    (fold / "training_log_2026_3_14_10_00_00.txt").write_text(log(range(5, 9), shift=0.5))
    return fold.parent


@pytest.mark.parametrize("numpy_2", [True, False])
def test_log_of_finished_epochs(numpy_2):
    epochs = parse_log(log(range(3), numpy_2=numpy_2) + "2026-03-04 10:00:09.1: Epoch 3 \n2026: train_loss -0.5 \n")
    assert list(epochs) == [0, 1, 2]
    assert (epochs[2].train_loss, epochs[2].val_loss) == (-0.02, -0.04)
    assert epochs[2].pseudo_dice[0] == 0.02 and math.isnan(epochs[2].pseudo_dice[1])
    assert epochs[2].mean_pseudo_dice == 0.02


def test_continued_training_replaces_the_epochs_it_repeats(training):
    epochs = read_training(training)["fold_0"]
    assert list(epochs) == list(range(9))
    assert epochs[4].train_loss == -0.04 and epochs[5].train_loss == 0.45


def test_continuation_drops_later_epochs_of_the_abandoned_run():
    assert list(merge_logs([log(range(20)), log(range(10, 12))])) == list(range(12))
    assert list(merge_logs([log(range(20)), ""])) == list(range(20))


def test_one_fold_can_be_given(training):
    assert list(read_training(training / "fold_0")) == ["fold_0"]


def test_logs_without_a_finished_epoch_are_refused(tmp_path):
    (tmp_path / "fold_0").mkdir()
    (tmp_path / "fold_0" / "training_log_2026_3_4_10_00_00.txt").write_text("2026: Epoch 0 \n")
    with pytest.raises(ValueError, match="no finished epoch"):
        read_training(tmp_path)


class Road:
    """Folders of cases for nnneuro_evaluate."""

    def __init__(self, folder, labels):
        self.folder = folder
        self.predictions, self.references, self.images = (folder / name for name in ("predictions", "labelsTs", "imagesTs"))
        for made in (self.predictions, self.references, self.images):
            made.mkdir()
        (folder / "dataset.json").write_text(json.dumps({"labels": labels}))

    def add(self, case, reference, prediction, *, image=None, probabilities=None):
        tifffile.imwrite(self.references / f"{case}.tif", reference)
        tifffile.imwrite(self.predictions / f"{case}.tif", prediction.astype(reference.dtype))
        if image is not None:
            tifffile.imwrite(self.images / f"{case}_0000.tif", image)
        if probabilities is not None:
            np.savez(self.predictions / f"{case}.npz", probabilities=probabilities)

    def page(self, **options):
        evaluate_folders(self.predictions, self.references, out=self.folder / "out", formats=["html"], progress=False, **options)
        return (self.folder / "out" / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    made = Road(tmp_path_factory.mktemp("road"), {"background": 0, "axon & <b>bouton</b>": 1, "ignore": 2})
    for case in ("a", "b<i>"):
        reference = np.zeros((5, 30, 40), np.uint8)
        reference[1:4, 10:14, 5:35] = 1
        reference[:, :, 30:] = 2
        probability = np.where(reference == 1, 0.8, 0.1).astype(np.float32)
        made.add(case, reference, np.roll(reference == 1, 2, axis=1), image=reference.astype(np.uint16) * 300,
                 probabilities=np.stack([1 - probability, probability]))
    return made


@pytest.fixture(scope="module")
def page(road, training):
    return road.page(images=road.images, training=training, choice=Choice(measures=("overlap", "centrelines", "surfaces")))


@pytest.fixture(scope="module")
def everything(road):
    """An evaluation with every measure there is."""
    return evaluate_folders(road.predictions, road.references, probabilities=road.predictions, choice=Choice(measures=tuple(families())),
                            progress=False)


def test_report_is_one_well_formed_file_without_scripts_or_references(page):
    parsed = Page(page)
    assert parsed.open == []
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in parsed.tags}
    anchors = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(anchors) == len(set(anchors))
    for tag, attributes in parsed.tags:
        for name, value in attributes.items():
            assert name not in ("srcset", "action", "data") and not name.startswith("on")
            if name == "src":
                assert tag == "img" and value.startswith("data:image/png;base64,")
                assert base64.b64decode(value.partition(",")[2], validate=True).startswith(b"\x89PNG")
            if name == "href":
                assert value.startswith("#") and value[1:] in anchors
    assert "url(" not in page and "@import" not in page and "http" not in parsed.text


def test_report_can_be_used_with_a_keyboard_and_a_screen_reader(page):
    parsed = Page(page)
    assert parsed.attributes("html") == [{"lang": "en"}]
    assert parsed.attributes("a")[0]["href"] == "#main" and "focus-visible" in page
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(after <= before + 1 for before, after in itertools.pairwise(levels))
    regions = [attributes for tag, attributes in parsed.tags if attributes.get("class") == "wide"]
    assert len(regions) == len(parsed.attributes("table")) and all(one["tabindex"] == "0" and one["aria-label"] for one in regions)
    assert all("scope" in attributes for attributes in parsed.attributes("th"))
    assert len(parsed.attributes("caption")) == len(regions)
    assert len(parsed.attributes("details")) == len(parsed.attributes("summary")) > 3
    assert all(60 < len(picture["alt"]) < 1500 for picture in parsed.attributes("img"))


def test_report_shows_every_case_fold_and_measure(page):
    parsed = Page(page)
    pictures = [picture["alt"] for picture in parsed.attributes("img")]
    assert len(pictures) == 4
    assert "Class axon & <b>bouton</b>" in pictures[0] and "median" in pictures[0]
    assert "Case a" in pictures[1] and "Case b<i>" in pictures[2] and "9 epochs" in pictures[3]
    for one in selected(["overlap", "centrelines", "surfaces"]).values():
        assert " ".join(one.description.split("\n\n")[0].split()) in parsed.words
        assert one.source.rstrip(".") in parsed.words and all(name in parsed.words for name in one.also_called)
    assert "mean over cases" in parsed.words and "pooled" in parsed.words
    assert "axon & <b>bouton</b>" in parsed.words
    assert "carries the ignore label 2 and counts nowhere" in parsed.words


@pytest.mark.parametrize("family", families())
def test_every_family_has_its_tables_plots_and_guide(everything, family):
    evaluation = replace(everything, measured=selected([family]))
    name = next(iter(evaluation.names.classes))
    picture = class_picture(evaluation, name)
    assert picture.png.startswith(b"\x89PNG") and "Reliability" in picture.alternative
    assert headlines(evaluation.measured)[0] in picture.alternative
    tables, entries = Page(overview_tables(evaluation)), Page(guide(evaluation))
    assert tables.open == entries.open == []
    for key, one in MEASURES.items():
        described = " ".join(one.description.split("\n\n")[0].split()) in entries.words
        assert described == (one.family == family), key
        assert (f">{key}</th>" in overview_tables(evaluation)) == (one.family == family), key


def test_probabilities_add_a_reliability_diagram_also_of_a_single_case(everything):
    parsed = Page(report_page(replace(everything, cases=everything.cases[:1]), progress=False))
    assert "2 bins of probability; the farthest from calibrated says 0.80" in parsed.attributes("img")[0]["alt"]
    assert "reliability diagram" in parsed.words and "All cases" not in parsed.words and "mean over cases" not in parsed.words
    assert len(parsed.attributes("img")) == 2


def test_what_a_reader_must_know_is_said_first(everything):
    page = report_page(replace(everything, cases=everything.cases[:1], warnings=["the end is missing"], left_out=["c", "d"],
                               left_out_measures={"HD": "it is too large", "NSD": "it is too large"}), progress=False)
    notes = [" ".join(note.split()) for note in re.findall(r"<li>([^<]*)\.</li>", page)]
    assert notes == ["The end is missing", "Not measured: HD, NSD, because it is too large",
                     "The references annotate 75.0% of the voxels; the rest carries the ignore label 2 and counts nowhere, whatever was "
                     "predicted there", "2 references without prediction left out on request: c, d"]


def test_report_needs_no_images_and_no_training(tmp_path):
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "axon": 1}}')
    (tmp_path / "labelsTr").mkdir()
    tifffile.imwrite(tmp_path / "labelsTr" / "empty.tif", np.zeros((1, 20, 20), np.uint8))
    evaluate_folders(tmp_path / "labelsTr", tmp_path / "labelsTr", out=tmp_path / "out", progress=False)
    parsed = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert len(parsed.attributes("img")) == 1
    assert "Training" not in parsed.text and "No annotated voxel of axon in the reference of empty" in parsed.words


def test_a_case_in_blocks_is_drawn_in_part(road):
    parsed = Page(road.page(images=road.images, choice=Choice(measures=("overlap",), block=(5, 15, 20))))
    assert "the report draws" in parsed.words and len(parsed.attributes("img")) == 3


@pytest.mark.slow
def test_page_of_many_cases_stays_light(tmp_path):
    rng = np.random.default_rng(0)
    road = Road(tmp_path, {"background": 0, "soma": 1, "axon": 2})
    for number in range(200):
        reference = np.kron(rng.integers(0, 3, (3, 4, 4)), np.ones((3, 6, 6))).astype(np.uint8)
        road.add(f"case_{number:03d}", reference, np.where(rng.random(reference.shape) < 0.3, 0, reference))
    page = road.page(choice=Choice(measures=("overlap",)))
    parsed = Page(page)
    assert len(parsed.attributes("img")) == 2 + WORST + BEST and len(page) < 2_000_000
    assert all(f"case_{number:03d}" in page for number in range(200))
    assert max(len(picture["alt"]) for picture in parsed.attributes("img")) < 1500


def test_twelve_classes_are_told_apart_in_tables_and_pictures(tmp_path):
    road = Road(tmp_path, {"background": 0, **{f"structure {number}": number for number in range(1, 13)}})
    reference = np.kron(np.arange(1, 13).reshape(1, 3, 4), np.ones((2, 12, 12))).astype(np.uint8)
    road.add("a", reference, reference)
    parsed = Page(road.page(choice=Choice(measures=("overlap",))))
    assert all(f"structure {number}" in parsed.words for number in range(1, 13))
    # classes 1 and 9 have one colour, but the ninth is striped
    first, ninth = (painted(np.zeros((*reference[0].shape, 3), np.float32), np.where(reference[0] == number, number, 0))
                    for number in (1, 9))
    assert len(np.unique(first[reference[0] == 1], axis=0)) == 1 and len(np.unique(ninth[reference[0] == 9], axis=0)) == 2


def of_values(values, **measure):
    """An evaluation with one class and one measure."""
    one = next(iter(selected([measure.pop("name", "Dice")]).values()))
    cases = [SimpleNamespace(values={"axon": {one.name: value}}) for value in values]
    return SimpleNamespace(cases=cases, measured={one.name: one}, field_of_use=None)


@pytest.mark.parametrize(("name", "order"), [("Dice", [0.1, 0.3, 0.9]), ("HD95", [0.9, 0.3, 0.1]),
                                             ("volume_similarity_signed", [0.9, 0.3, 0.1])])
def test_cases_are_ranked_from_the_worst_in_the_direction_of_the_measure(name, order):
    ranked = ranked_cases(of_values([0.3, math.nan, 0.9, 0.1], name=name))
    assert [one.value for one in ranked[:3]] == order and math.isnan(ranked[3].value)
    assert [one.place for one in ranked] == [1, 2, 3, 4]


def test_of_many_cases_the_worst_and_the_best_are_pictured():
    shown = [one.value for one in pictured_cases(ranked_cases(of_values([*np.arange(100)[::-1] / 100, math.nan])))]
    assert shown == [*np.arange(WORST) / 100, *np.arange(100 - BEST, 100) / 100]
    assert len(pictured_cases(ranked_cases(of_values([0.5, math.nan])))) == 2
    assert len(pictured_cases(ranked_cases(of_values([0.5] * 3 + [math.nan] * 20)))) == WORST + BEST


def test_regions_are_drawn_inside_each_other_and_what_is_not_measured_is_background(tmp_path):
    labels = np.array([[[0, 1, 2, 3, 4]]], np.uint8)
    nested = LabelNames({"whole": 1, "core": 2}, 4, tmp_path, {"whole": (1, 2, 3), "core": (2, 3)})
    assert report_voxels.class_numbers(labels, nested).tolist() == [[[0, 1, 2, 2, 0]]]
    chosen = LabelNames({"both": -1}, None, tmp_path, {"both": (1, 2)}, further=(3, 4))
    assert report_voxels.class_numbers(labels, chosen).tolist() == [[[0, 1, 1, 0, 0]]]


def test_errors_leave_out_unlabelled_voxels():
    reference, prediction = np.array([0, 1, 1, 0, 2, 1]), np.array([1, 0, 1, 0, 1, 1])
    annotated = np.array([True] * 5 + [False])
    kinds = report_voxels.error_kinds(prediction, reference, annotated)
    assert [("nothing", *KINDS)[kind] for kind in kinds] == ["extra", "missed", "hit", "nothing", "wrong class", "nothing"]
    stacked = np.array([[1, 2, 2, 0], [4, 4, 1, 1], [0, 0, 0, 0]], np.uint8)
    assert report_voxels.most_frequent_kind(stacked, axis=1).tolist() == [2, 4, 0]


def test_objects_are_hit_where_each_is_the_others_largest_overlap():
    reference = np.array([[[7, 7, 7, 7, 9, 9, 0, 5]]], np.uint64)
    prediction = np.array([[[3, 3, 3, 1, 1, 1, 1, 0]]], np.uint64)
    predicted, referenced = report_voxels.paired_objects(prediction, reference)
    kinds = report_voxels.error_kinds(predicted, referenced, np.ones(reference.shape, bool)).ravel()
    assert [("nothing", *KINDS)[kind] for kind in kinds] == ["hit"] * 3 + ["wrong class", "hit", "hit", "extra", "missed"]


def test_pictured_planes_are_the_fullest_and_of_equal_ones_the_middle():
    reference = np.zeros((9, 8, 7), np.uint8)
    reference[2, 1:7, 5] = 1
    reference[4, 1:7, :] = 1
    annotated = np.ones(reference.shape, bool)
    annotated[4] = False
    case = report_voxels.DrawnCase(np.zeros_like(reference), reference, annotated, np.zeros_like(reference), None)
    assert report_voxels.fullest_planes(case) == (2, 4, 5)
    nothing = report_voxels.DrawnCase(reference * 0, reference * 0, annotated, reference * 0, None)
    assert report_voxels.fullest_planes(nothing)[0] in (3, 5)


@pytest.mark.parametrize("planes", [slice(None), slice(2, None, 4)])
def test_centre_line_errors_are_those_that_are_counted(planes):
    rng = np.random.default_rng(1)
    from scipy import ndimage

    reference, prediction = (ndimage.gaussian_filter(rng.random((12, 30, 30)), 1.5) > 0.53 for _ in range(2))
    annotated = np.zeros(reference.shape, bool)
    annotated[planes] = True
    options = {"tolerance": 2.0, "spacing": (2.0, 1.0, 1.0)}
    found = report_voxels.centre_line_errors(prediction, reference, annotated, **options)
    counted = compare_skeletons(prediction, reference, annotated, **options)
    assert len(found["hit"]) == counted["skeleton_reference_hit_tolerant"] > 0
    assert len(found["missed"]) == counted["skeleton_reference"] - counted["skeleton_reference_hit_tolerant"] > 0
    assert len(found["extra"]) == counted["skeleton_prediction"] - counted["skeleton_prediction_hit_tolerant"] > 0
    assert all(annotated[tuple(places.T)].all() for places in found.values())


def test_few_voxels_keep_their_colour_in_the_picture(road):
    from PIL import Image

    parsed = Page(road.page(images=road.images, choice=Choice(measures=("overlap",))))
    data = base64.b64decode(parsed.attributes("img")[1]["src"].partition(",")[2])
    colours = {colour for _, colour in Image.open(io.BytesIO(data)).convert("RGB").getcolors(1000)}
    wanted = [class_colour(0), *(ERROR_COLOURS[kind] for kind in ("hit", "extra", "missed")), "#ffffff", "#c4c4c4"]
    for name in wanted:
        colour = np.array([int(name[place:place + 2], 16) for place in (1, 3, 5)])
        assert min(np.abs(np.array(other) - colour).max() for other in colours) <= 1, name


def test_numbers_keep_their_digits():
    assert [value_text(value) for value in (0.8714, 0.000312, 0.0, 12.5, 12345.6, math.nan, math.inf)] == [
        "0.871", "0.00031", "0.000", "12.500", "12346", "–", "∞"]


@pytest.mark.slow
def test_report_opens_in_a_browser(page, tmp_path):
    browser = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip("needs chromium")
    from skimage.io import imread

    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    for width in (1300, 500):
        shot = tmp_path / f"{width}.png"
        done = subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--enable-logging=stderr", f"--window-size={width},3000",
             f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}", (tmp_path / "page.html").as_uri()],
            capture_output=True, text=True, timeout=120)
        shown = imread(shot)[..., :3].astype(int)
        assert shown.shape[1] == width and "CONSOLE" not in done.stderr
        assert 0.02 < np.mean((shown < 240).any(axis=-1)) < 0.6
        for name in (class_colour(0), ERROR_COLOURS["missed"], "#8ebfe3"):
            colour = [int(name[place:place + 2], 16) for place in (1, 3, 5)]
            assert (np.abs(shown - colour).max(axis=-1) < 12).sum() > 100, f"{name} at a width of {width}"
