"""Every entry of models.json holds what it promises; cards, lists of users, and models made ready to ship."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_neuro.commands import model_commands
from nnunet_neuro.commands.models import command_names, main
from nnunet_neuro.commands.predict import main as predict_main
from nnunet_neuro.models.catalogue import SHIPPED, VARIABLE, ModelEntry, catalogue, find, read_entries
from nnunet_neuro.models.installed import model_folder
from nnunet_neuro.models.model_folder import check_model, hashes_of
from nnunet_neuro.models.page import card_text, cards_page
from nnunet_neuro.models.shipping import entry_facts, strip_checkpoint
from nnunet_neuro.predict.checkpoints import load_checkpoint
from nnunet_neuro.predict.model import load_model
from tests.html_page import Page
from tests.tiny_models import change_checkpoint, nnunet_labels, tiny_model

LISTED = {entry.name: entry for entry in read_entries(SHIPPED)}
SHIPS = {name: entry for name, entry in LISTED.items() if entry.folder is not None}
LICENCES = ("MIT", "CC0", "CC BY", "BSD", "Apache")  # that let weights be used for anything
# besides what every entry has; notes may be empty
CARD = ("data", "data_licence", "citation", "trainer", "plan", "training", "hardware", "time", "date", "seed", "commands", "held_out",
        "scores", "intervals", "comparison", "limits")
PREDICT = """
import json, sys
import numpy as np, torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
found = {}
for name, folder, folds, shape, spacing in json.loads(sys.argv[1]):
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(folder, folds, "checkpoint_final.pth")
    image = np.random.default_rng(0).normal(100, 30, shape).astype(np.float32)
    labels = predictor.predict_single_npy_array(image, {"spacing": spacing})
    found[name] = [list(labels.shape), sorted(map(int, np.unique(labels)))]
print("FOUND", json.dumps(found))
"""


def checkpoints(entry: ModelEntry) -> list[Path]:
    return sorted(entry.folder.glob("fold_*/*.pth"))


def plans_of(entry: ModelEntry) -> PlansManager:
    return PlansManager(json.loads((entry.folder / "plans.json").read_text()))


# --- the contract of an entry ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPS)
def test_files_are_there_with_their_hashes(name):
    entry = SHIPS[name]
    assert hashes_of(entry.folder) == dict(entry.files), "nothing is missing, changed, or there without being listed"
    assert sum((entry.folder / file).stat().st_size for file in entry.files) == entry.bytes
    assert entry.folder.name == entry.model and entry.folder.parent.name == name


def test_everything_that_ships_is_small_and_listed():
    assert sum(entry.bytes for entry in SHIPS.values()) <= 60e6
    folder = SHIPPED.parents[1] / "checkpoints"
    assert {path.name for path in folder.iterdir() if path.is_dir()} == set(SHIPS)
    text = (folder / "README.md").read_text()
    assert all(f"| `{name}` | {entry.licence} |" in text for name, entry in SHIPS.items())


@pytest.mark.parametrize("name", SHIPS)
def test_weights_fit_the_network_of_the_plans_alone(name):
    assert check_model(SHIPS[name].folder, plan_level=True) == checkpoints(SHIPS[name])


@pytest.mark.parametrize("name", SHIPS)
def test_checkpoints_hold_what_predicts_and_nothing_else(name):
    entry = SHIPS[name]
    assert entry.model.split("__")[0] == "nnUNetTrainer"
    for path in checkpoints(entry):
        content = load_checkpoint(path)
        assert content["optimizer_state"] is None and content["trainer_name"] == "nnUNetTrainer"
        assert content["init_args"]["configuration"] == entry.model.split("__")[2]
        weights = content["network_weights"].values()
        assert all(value.device.type == "cpu" for value in weights)
        assert path.stat().st_size < 20e6 or all(value.dtype == torch.float16 for value in weights if value.is_floating_point())


def readme_row(entry: ModelEntry) -> str:
    scores = [score for score in entry.scores if score.measure == "Dice"]
    ours = ", ".join(f"{score.label} {score.value:.3f} [{score.interval[0]:.3f}, {score.interval[1]:.3f}]" for score in scores)
    stock = ", ".join(f"{score.stock:.3f}" for score in scores if score.stock is not None)
    return (f"| `{entry.name}` | {entry.summary} | {entry.held_out} | {ours} | {stock or 'the same'} | "
            f"{entry.licence}, {entry.bytes / 1e6:.1f} MB |")


@pytest.mark.parametrize("name", SHIPS)
def test_the_readme_shows_the_scores_of_the_card(name):
    assert readme_row(SHIPS[name]) in (SHIPPED.parents[2] / "README.md").read_text().splitlines()


@pytest.mark.parametrize("name", SHIPS)
def test_plain_nnunet_trains_on_from_it(name, capsys):
    """What `nnUNetv2_train -pretrained_weights CHECKPOINT` does to the network of the same plans, with deep supervision."""
    entry = SHIPS[name]
    described = json.loads((entry.folder / "dataset.json").read_text())
    wanted = plans_of(entry).get_configuration(entry.model.split("__")[2])
    for path in checkpoints(entry):
        network = get_network_from_plans(
            wanted.network_arch_class_name, wanted.network_arch_init_kwargs, wanted.network_arch_init_kwargs_req_import,
            len(described["channel_names"]), len(described["labels"].keys() - {"ignore"}), deep_supervision=True)
        load_pretrained_weights(network, path)
        trained = load_checkpoint(path)["network_weights"]
        loaded = {key: value for key, value in network.state_dict().items() if ".seg_layers." not in key}
        assert loaded and all(torch.equal(value, trained[key].float()) for key, value in loaded.items())


@pytest.mark.parametrize("name", LISTED)
def test_the_card_is_complete(name):
    entry = LISTED[name]
    empty = [field for field in CARD if getattr(entry, field) in ("", (), None)]
    assert not empty
    assert set(CARD) <= {field.name for field in fields(ModelEntry)}
    for licence in (entry.licence, entry.data_licence):
        assert licence.startswith(LICENCES) and not re.search(r"\bN[CD]\b|non-?commercial|research only", licence, re.IGNORECASE)
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", entry.date)
    assert any("nnUNetv2_train" in line for line in entry.commands)
    assert all(0 <= score.interval[0] <= score.value <= score.interval[1] <= 1 for score in entry.scores)
    alone = [score for score in entry.scores if score.stock is None]
    assert not alone or (len(alone) == len(entry.scores) and "is stock nnU-Net itself" in entry.comparison), "scores stand beside stock's"
    if entry.folder is not None:
        labels = json.loads((entry.folder / "dataset.json").read_text())["labels"]
        assert {score.label for score in entry.scores} <= set(labels) - {"background", "ignore"}


def test_every_model_predicts_with_plain_nnunet(tmp_path):
    tasks = []
    for name, entry in SHIPS.items():
        configuration = plans_of(entry).get_configuration(entry.model.split("__")[2])
        shape = [1] * (3 - len(configuration.patch_size)) + list(configuration.patch_size)
        spacing = [1.0] * (3 - len(configuration.spacing)) + list(configuration.spacing)
        order = plans_of(entry).transpose_backward
        channels = len(json.loads((entry.folder / "dataset.json").read_text())["channel_names"])
        folds = [fold if fold == "all" else int(fold) for fold in (path.parent.name[5:] for path in checkpoints(entry))]
        tasks.append([name, str(entry.folder), folds, [channels, *(shape[axis] for axis in order)], [spacing[axis] for axis in order]])
    environment = {key: value for key, value in os.environ.items() if not key.startswith("nnUNet")}
    done = subprocess.run([sys.executable, "-c", PREDICT, json.dumps(tasks)], capture_output=True, text=True, timeout=300,
                          cwd=tmp_path, env={**environment, "NNNEURO_AUTOLOAD": "0", "nnUNet_compile": "f"})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.partition("FOUND ")[2])
    for name, _, _, (_, *shape), _ in tasks:
        assert found[name][0] == shape and set(found[name][1]) <= set(load_model(SHIPS[name].folder).classes.values())


def test_the_hippocampus_of_a_subject_that_was_held_out(shared_data, tmp_path, monkeypatch):
    import nibabel

    for name in ("raw", "preprocessed", "results"):
        monkeypatch.delenv(f"nnUNet_{name}", raising=False)
    data = shared_data / "mri_msd_hippocampus"
    if not data.is_dir():
        pytest.skip("needs mri_msd_hippocampus")
    image = data / "imagesTr" / "hippocampus_001.nii.gz"
    assert predict_main([str(image), str(tmp_path / "out.nii.gz"), "--zoo", "mri_hippocampus", "--device", "cpu"]) == 0
    found, truth = (np.asarray(nibabel.load(path).dataobj) for path in (tmp_path / "out.nii.gz", data / "labelsTr" / image.name))
    for label in (1, 2):
        hit, both = np.sum((found == label) & (truth == label)), np.sum(found == label) + np.sum(truth == label)
        assert 2 * hit / both > 0.84


# --- cards -------------------------------------------------------------------------------------------------------------------------


def test_the_card_tells_everything(capsys):
    assert main(["show", next(iter(SHIPS))]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    entry = next(iter(SHIPS.values()))
    for fact in (*entry.commands, *entry.limits, *entry.files.values(), entry.data, entry.plan, entry.hardware, entry.comparison):
        assert " ".join(fact.split()) in shown
    assert all(f"{score.value:.3f} [{score.interval[0]:.3f}, {score.interval[1]:.3f}]" in shown for score in entry.scores)


def test_the_page_is_one_accessible_file(tmp_path, capsys):
    path = tmp_path / "cards.html"
    assert main(["show", "--all", "--html", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}\n" and os.listdir(tmp_path) == ["cards.html"]
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not page.open and len(page.attributes("h1")) == 1 and len(page.attributes("section")) == len(catalogue())
    assert len(page.attributes("table")) == len(page.attributes("caption")) == len(page.attributes("thead")) > 0
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.attributes("th"))
    assert page.attributes("html") == [{"lang": "en"}]
    assert page.attributes("a")[0]["href"] == "#main" and all(one["href"].startswith("#") for one in page.attributes("a"))
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in page.tags} and "url(" not in text and "@import" not in text
    identities = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identities) == len(set(identities))
    assert all(attributes["aria-labelledby"] in identities for _, attributes in page.tags if "aria-labelledby" in attributes)


def test_the_page_shows_text_of_others_as_text(user_list):
    facts = {**tiny_entry(user_list.parent), "summary": "<script>alert(1)</script>", "limits": ["a < b & c"],
             "scores": [{"measure": "Dice", "label": "<i>axon</i>", "value": [0.5, 0.4, 0.6], "stock": [0.4, 0.3, 0.5]}]}
    write_list(user_list, facts)
    page = cards_page([find("tiny")])
    assert "<script" not in page and "&lt;script&gt;" in page and "a &lt; b &amp; c" in page and "&lt;i&gt;axon" in page
    assert "0.400 [0.300, 0.500]" in page and "0.400 [0.300, 0.500]" in card_text(find("tiny")) and "not stated" in page


# --- lists of users ----------------------------------------------------------------------------------------------------------------


def tiny_entry(folder: Path) -> dict:
    model = "nnUNetTrainer__nnUNetPlansTiny__3d_fullres"
    if not (folder / model).exists():
        tiny_model(folder / model)
    files = {name: digest for name, digest in hashes_of(folder / model).items() if not name.startswith("by_nnunet")}
    return {"name": "tiny", "summary": "a tiny one", "dataset": "Dataset001_Tiny", "model": model, "licence": "CC0", "bytes": 1000,
            "folder": model, "files": files}


def write_list(path: Path, *entries: dict) -> None:
    path.write_text(json.dumps({"models": entries}))


@pytest.fixture
def user_list(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    monkeypatch.setenv(VARIABLE, f"{os.pathsep}{folder / 'models.json'}")
    return folder / "models.json"


def test_models_of_a_user_are_listed_and_predict(user_list, capsys, tmp_path):
    import tifffile

    write_list(user_list, tiny_entry(user_list.parent))
    assert main(["list"]) == 0 and re.search(r"^tiny +a tiny one +0.0 MB +CC0 +–", capsys.readouterr().out, re.MULTILINE)
    assert main(["show", "tiny"]) == 0 and "hardware                not stated" in capsys.readouterr().out
    image = np.random.default_rng(1).integers(0, 200, (18, 26, 22)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "image.tif", image, photometric="minisblack")
    words = [str(tmp_path / "image.tif"), str(tmp_path / "out.tif"), "--zoo", "tiny", "--spacing", "1,1,1", "--device", "cpu"]
    assert predict_main(words) == 0
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), nnunet_labels(model_folder("tiny"), image[None]))


def test_predict_says_which_models_there_are(tmp_path, capsys):
    words = [str(tmp_path / "image.tif"), str(tmp_path / "out.tif")]
    assert predict_main([*words, "--zoo", "nothing"]) == 2
    assert f"no model 'nothing' is listed; choose one of {', '.join(sorted(catalogue()))}" in capsys.readouterr().err
    for other in (["-d", "1"], ["--model", str(tmp_path)]):
        assert predict_main([*words, "--zoo", "nothing", *other]) == 2
        assert "name a model; give one of them" in capsys.readouterr().err


BAD_ENTRIES = {
    "a missing field": ({"licence": ...}, "lacks licence"),
    "an unknown field": ({"licnce": "MIT"}, "unknown field 'licnce'"),
    "a name with a slash": ({"name": "../x"}, "is called '../x'"),
    "a dataset that climbs": ({"dataset": "Dataset001_../x"}, "expected a dataset such as"),
    "a model of one word": ({"model": "model"}, "expected a model such as"),
    "a folder and an address": ({"url": "https://example.org/a.zip", "sha256": "0" * 64}, "either a folder with files, or a url"),
    "no hash": ({"files": {}}, "needs the sha256"),
    "half a hash": ({"files": {"plans.json": "abc"}}, "needs the sha256"),
    "an address of another kind": ({"folder": ..., "url": "file:///etc/passwd", "sha256": "0" * 64}, "begins with https://"),
    "a score outside its interval": ({"scores": [{"measure": "Dice", "label": "axon", "value": [0.9, 0.1, 0.2]}]}, "outside its conf"),
    "a score without interval": ({"scores": [{"measure": "Dice", "label": "axon", "value": [0.9]}]}, "not enough values"),
    "a number for a text": ({"summary": 3}, "has summary that is no text"),
    "text for lines": ({"limits": "none"}, "has limits that are no list"),
    "the size in words": ({"bytes": "9 MB"}, "expected a whole number"),
}


@pytest.mark.parametrize("what", BAD_ENTRIES)
def test_a_bad_entry_is_told(what, user_list, capsys):
    changes, expected = BAD_ENTRIES[what]
    write_list(user_list, {key: value for key, value in {**tiny_entry(user_list.parent), **changes}.items() if value is not ...})
    assert main(["list"]) == 2
    message = capsys.readouterr().err
    assert expected in message and str(user_list) in message and len(message.splitlines()) == 1


def test_a_bad_list_is_told(user_list, capsys):
    for content, expected in (("{", "is no JSON"), ("[]", "lists no models"), ('{"models": [3]}', "lists no models")):
        user_list.write_text(content)
        assert main(["list"]) == 2 and expected in capsys.readouterr().err
    user_list.unlink()
    assert main(["list"]) == 2 and f"no list of models {user_list}" in capsys.readouterr().err
    write_list(user_list, {**tiny_entry(user_list.parent), "name": next(iter(SHIPS))})
    assert main(["list"]) == 2 and "listed already" in capsys.readouterr().err


def test_files_of_a_list_stay_in_the_model_folder(user_list, capsys, tmp_path):
    entry = tiny_entry(user_list.parent)
    write_list(user_list, {**entry, "files": {**entry["files"], "../../x": "0" * 64}})
    (tmp_path / "results").mkdir()
    assert main(["install", "tiny", "--results", str(tmp_path / "results")]) == 2
    assert "lists the file '../../x'" in capsys.readouterr().err and not list((tmp_path / "results").iterdir())


# --- the command -------------------------------------------------------------------------------------------------------------------


def test_every_word_is_a_module(capsys):
    assert {"list", "show", "install", "verify"} <= set(command_names())
    files = {path.stem for path in Path(model_commands.__path__[0]).glob("*.py") if path.stem != "__init__"}
    assert set(command_names().values()) == files and all(word == word.rstrip("_") for word in command_names())
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert all(re.search(rf"^    {word} +\w", shown, re.MULTILINE) for word in command_names()), "each is explained in a line"


# --- made ready to ship ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path) -> Path:
    """Two folds of a trainer whose network is that of the plans."""
    folder = tiny_model(tmp_path / "nnUNetTrainerSkeletonRecall__nnUNetPlansTiny__3d_fullres", folds=(0, 1))
    for fold in (0, 1):
        change_checkpoint(folder, fold, trainer_name="nnUNetTrainerSkeletonRecall")
    return folder


def test_what_ships_is_small_and_predicts_alike(trained, tmp_path):
    files = strip_checkpoint(trained, tmp_path / "ship", (0, 1))
    folder = tmp_path / "ship" / "nnUNetTrainer__nnUNetPlansTiny__3d_fullres"
    assert files == hashes_of(folder) and json.loads(entry_facts(folder))["files"] == files
    assert set(files) == {"plans.json", "dataset.json", "fold_0/checkpoint_final.pth", "fold_1/checkpoint_final.pth"}
    for fold in (0, 1):
        small, large = (path / f"fold_{fold}" / "checkpoint_final.pth" for path in (folder, trained))
        content = torch.load(small, weights_only=True)  # needs nothing allowed
        before = torch.load(large, weights_only=False)["network_weights"]
        assert content["optimizer_state"] is None and content["trainer_name"] == "nnUNetTrainer" and "device" not in content["init_args"]
        assert all(torch.equal(value, before[name].half()) for name, value in content["network_weights"].items())
        assert list(content["network_weights"]) == list(before)
        distinct = {value.untyped_storage().data_ptr(): value.numel() for value in content["network_weights"].values()}
        assert sum(distinct.values()) < 0.5 * sum(value.numel() for value in before.values()), "shared weights are stored once"
    image = np.random.default_rng(0).integers(1, 200, (1, 20, 30, 25))
    assert np.mean(nnunet_labels(folder, image, folds=(0, 1)) != nnunet_labels(trained, image, folds=(0, 1))) < 0.01
    with pytest.raises(FileExistsError, match="is there already"):
        strip_checkpoint(trained, tmp_path / "ship", (0,))


def test_numbers_too_large_for_16_bits_stay_in_32(trained, tmp_path):
    weights = torch.load(trained / "fold_0" / "checkpoint_final.pth", weights_only=False)["network_weights"]
    name = next(iter(weights))
    change_checkpoint(trained, 0, network_weights={**weights, name: weights[name] * 1e7})
    strip_checkpoint(trained, tmp_path / "ship", (0,))
    path = tmp_path / "ship" / "nnUNetTrainer__nnUNetPlansTiny__3d_fullres" / "fold_0" / "checkpoint_final.pth"
    found = torch.load(path, weights_only=True)["network_weights"]
    assert found[name].dtype == torch.float32 and {value.dtype for key, value in found.items() if key != name} == {torch.float16}


def test_a_network_of_a_trainer_of_its_own_does_not_ship(trained, tmp_path):
    weights = torch.load(trained / "fold_0" / "checkpoint_final.pth", weights_only=False)["network_weights"]
    change_checkpoint(trained, 0, network_weights={f"attention.{name}": value for name, value in weights.items()})
    with pytest.raises(ValueError, match="do not fit the network"):
        strip_checkpoint(trained, tmp_path / "ship", (0,))
    with pytest.raises(FileNotFoundError, match="no fold_all/checkpoint_final.pth"):
        strip_checkpoint(trained, tmp_path / "ship", ("all",))
    assert not (tmp_path / "ship").exists() or not list((tmp_path / "ship").iterdir())


def test_scores_are_averaged_over_the_classes():
    entry = next(iter(SHIPS.values()))
    values = [score.value for score in entry.scores if score.measure == "Dice"]
    assert entry.headline == f"Dice {math.fsum(values) / len(values):.3f}"
