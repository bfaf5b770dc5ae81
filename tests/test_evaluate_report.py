"""The report page, and the training curves it draws."""

import base64
import json
import math
from html.parser import HTMLParser

import numpy as np
import pytest
import tifffile

from nnunet_neuro.evaluate.figures import errors, fullest_plane, projected
from nnunet_neuro.evaluate.measures import MEASURES
from nnunet_neuro.evaluate.pairing import LabelNames
from nnunet_neuro.evaluate.report import MOST_FIGURES, pictured_cases
from nnunet_neuro.evaluate.run import evaluate_folders
from nnunet_neuro.evaluate.training_log import merge_logs, parse_log, read_training


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


@pytest.fixture
def training(tmp_path):
    fold = tmp_path / "results" / "nnUNetTrainer__nnUNetPlans__3d_fullres" / "fold_0"
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


class Page(HTMLParser):
    """Tags and their attributes, and tags left open."""

    VOID = {"meta", "img", "br", "link", "input", "hr"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def attributes(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def page(tmp_path, training):
    predictions, references, images = (tmp_path / name for name in ("predictions", "labelsTs", "imagesTs"))
    labels = {"background": 0, "axon & <b>bouton</b>": 1, "ignore": 2}
    for folder in (predictions, references, images):
        folder.mkdir()
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    for case in ("a", "b<i>"):
        reference = np.zeros((5, 30, 40), np.uint8)
        reference[1:4, 10:14, 5:35] = 1
        reference[:, :, 30:] = 2
        tifffile.imwrite(references / f"{case}.tif", reference)
        tifffile.imwrite(predictions / f"{case}.tif", np.roll(reference == 1, 2, axis=1).astype(np.uint8))
        tifffile.imwrite(images / f"{case}_0000.tif", reference.astype(np.uint16) * 300)
    evaluate_folders(predictions, references, images=images, training=training, out=tmp_path / "out", progress=False)
    return (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_report_is_one_well_formed_file_without_scripts_or_references(page):
    parsed = Page(page)
    assert parsed.open == []
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in parsed.tags}
    anchors = {attributes["id"] for _, attributes in parsed.tags if "id" in attributes}
    for tag, attributes in parsed.tags:
        for name, value in attributes.items():
            assert name not in ("srcset", "action", "data") and not name.startswith("on")
            if name == "src":
                assert tag == "img" and value.startswith("data:image/png;base64,")
                assert base64.b64decode(value.partition(",")[2], validate=True).startswith(b"\x89PNG")
            if name == "href":
                assert value.startswith("#") and value[1:] in anchors
    assert "url(" not in page and "@import" not in page and "http" not in "".join(parsed.text)


def test_report_shows_every_case_fold_and_measure(page):
    parsed = Page(page)
    text = " ".join("".join(parsed.text).split())
    pictures = parsed.attributes("img")
    assert len(pictures) == 3
    assert all(len(picture["alt"]) > 30 for picture in pictures)
    assert "Case b<i>" in pictures[1]["alt"] and "9 epochs" in pictures[2]["alt"]
    for one in MEASURES.values():
        assert " ".join(one.description.split("\n\n")[0].split()) in text
    assert "mean over cases" in text and "pooled" in text
    assert "axon & <b>bouton</b>" in text
    assert "carries the ignore label 2 and counts nowhere" in text
    assert parsed.attributes("html") == [{"lang": "en"}]
    assert all("scope" in attributes for attributes in parsed.attributes("th"))


def test_report_needs_no_images_and_no_training(tmp_path):
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "axon": 1}}')
    (tmp_path / "labelsTr").mkdir()
    tifffile.imwrite(tmp_path / "labelsTr" / "empty.tif", np.zeros((1, 20, 20), np.uint8))
    evaluate_folders(tmp_path / "labelsTr", tmp_path / "labelsTr", out=tmp_path / "out", progress=False)
    parsed = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert len(parsed.attributes("img")) == 1
    assert "Training" not in parsed.text


def test_of_many_cases_the_worst_are_pictured():
    class Case:
        def __init__(self, dice):
            self.values = {"axon": {"Dice": dice}}

    cases = [Case(number / 100) for number in range(100)][::-1]
    shown = [case.values["axon"]["Dice"] for case in pictured_cases(cases)]
    assert len(shown) == MOST_FIGURES and max(shown) < 0.25 and shown == sorted(shown, reverse=True)


def test_pictured_plane_and_errors_leave_out_unlabelled_voxels(tmp_path):
    names = LabelNames({"axon": 1, "soma": 2}, 3, tmp_path)
    reference = np.array([[[3, 3, 3, 3, 3]], [[0, 1, 1, 0, 3]], [[0, 2, 0, 0, 3]]], np.uint8)
    prediction = np.array([[[1, 1, 1, 1, 1]], [[0, 1, 2, 1, 1]], [[1, 0, 0, 0, 1]]], np.uint8)
    assert fullest_plane(reference, prediction, names) == 1
    assert projected(reference, names).tolist() == [[0, 2, 1, 0, 3]]
    found = {name: mask.astype(int).tolist() for name, mask in errors(prediction[1], reference[1], names).items()}
    assert found == {
        "hit": [[0, 1, 0, 0, 0]],
        "extra": [[0, 0, 0, 1, 0]],
        "missed": [[0, 0, 0, 0, 0]],
        "wrong class": [[0, 0, 1, 0, 0]],
    }
    assert errors(prediction[2], reference[2], names)["missed"].tolist() == [[False, True, False, False, False]]
