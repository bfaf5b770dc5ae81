"""Cases that a model has seen in its training are told apart from those that it has not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nnunet_neuro.models.pretrained import load_pretrained
from nnunet_neuro.models.seen_images import seen_cases, seen_images
from nnunet_neuro.models.shipping import strip_checkpoint
from tests.finetuning import described
from tests.tiny_models import tiny_model


def dataset(**cases: tuple[str, str, str]) -> dict:
    """A description with cases of (split, hash, place)."""
    return described() | {"provenance": {"cases": {
        name: {"split": split, "places": [place, place], "sources": [{"sha256": digest}, {"sha256": "of the label"}]}
        for name, (split, digest, place) in cases.items()}}}


TRAINED = dataset(a=("train", "1", ""), b=("train", "2", "0:4"), c=("val", "3", ""), d=("test", "4", ""))


def test_only_what_was_trained_on_was_seen():
    assert seen_images(TRAINED) == {"1", "20:4"}
    assert seen_images(described()) == frozenset(), "made by another program"


def test_the_same_image_is_seen_under_any_name_and_another_part_of_it_is_not():
    other = dataset(x=("train", "1", ""), y=("train", "2", "4:8"), z=("val", "2", "0:4"), t=("test", "1", ""))
    assert seen_cases(seen_images(TRAINED), other) == (["x", "z"], 3)
    assert seen_cases(frozenset(), other) == ([], 3)


@pytest.mark.parametrize(("validated", "seen"), [({"fold_0": "a", "fold_1": "b"}, {"1", "20:4"}), ({"fold_0": "a"}, {"20:4"}),
                                                 ({"fold_all": "a"}, {"1", "20:4"})])
def test_what_all_folds_held_out_was_not_seen(tmp_path, validated, seen):
    folds = []
    for fold, case in validated.items():
        (tmp_path / fold / "validation").mkdir(parents=True)
        (tmp_path / fold / "validation" / f"{case}.tif").touch()
        folds.append(tmp_path / fold)
    assert seen_images(TRAINED, folds) == seen


def test_a_model_that_ships_keeps_hashes_and_no_paths(tmp_path):
    folder = tiny_model(tmp_path / "nnUNetTrainer__nnUNetPlansTiny__3d_fullres")
    (folder / "dataset.json").write_text(json.dumps(json.loads((folder / "dataset.json").read_text()) | TRAINED))
    strip_checkpoint(folder, tmp_path / "ship")
    (shipped,) = (tmp_path / "ship").iterdir()
    assert "provenance" not in json.loads((shipped / "dataset.json").read_text())
    assert load_pretrained(str(shipped)).seen == load_pretrained(str(folder)).seen == {"1", "20:4"}
    assert load_pretrained(str(Path(shipped) / "fold_0" / "checkpoint_final.pth")).seen == {"1", "20:4"}
