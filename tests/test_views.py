"""The three-view scheme: planes of the views, fusions, and the road through `nnneuro_views`."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from batchgenerators.utilities.file_and_folder_operations import save_pickle
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_neuro.commands.views import main
from nnunet_neuro.views.fusion import METHODS, fuse_files, majority, staple
from nnunet_neuro.views.models import ViewModel
from nnunet_neuro.views.orientation import orientation_note
from nnunet_neuro.views.planner import DATASET_KEY, MEMORY_KEY, dataset_digest
from nnunet_neuro.views.prediction import fuse_cases
from nnunet_neuro.views.scheme import VIEWS, checked_views, planner_name, plans_name, transposition
from tests.test_planners_contract import nnunet_raw, plan  # noqa: F401 - a fixture

LABELS = {"background": 0, "thalamus": 1, "other": 2}
TRAINER = "nnUNetTrainerFocalTversky"


# --- planes ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_transposition_puts_the_sliced_axis_first_and_back(view):
    forward, backward = transposition(view)
    shape = np.zeros((2, 3, 4)).transpose(forward).shape
    assert shape[0] == (2, 3, 4)[VIEWS[view]]
    assert np.zeros(shape).transpose(backward).shape == (2, 3, 4)


@pytest.mark.parametrize("view", VIEWS)
def test_plan_is_nnunets_own_where_nnunet_slices_the_same_axis(view, nnunet_raw):  # noqa: F811
    """nnU-Net slices along the axis of the largest spacing; that view's 2D plan must be nnU-Net's."""
    spacing = np.roll([3.0, 1.0, 0.8], VIEWS[view]).tolist()
    geometry = (np.roll([30, 120, 110], VIEWS[view]).tolist(), spacing)
    ours = plan(planner_name(view), geometry, 2, nnunet_raw)
    nnunets = plan("ExperimentPlanner", geometry, 2, nnunet_raw)
    assert ours["transpose_forward"] == nnunets["transpose_forward"] == transposition(view)[0]
    assert ours["transpose_backward"] == nnunets["transpose_backward"]
    assert set(ours["configurations"]) == {"2d"} and ours["plans_name"] == plans_name(view)
    configurations = [{key: value for key, value in found["configurations"]["2d"].items() if key != "data_identifier"}
                      for found in (ours, nnunets)]
    assert configurations[0] == configurations[1]


def test_each_view_has_the_spacing_and_shape_of_its_plane(nnunet_raw):  # noqa: F811
    shape, spacing = np.array([40, 60, 80]), np.array([2.0, 1.0, 0.5])
    for view in VIEWS:
        found = plan(planner_name(view), (shape.tolist(), spacing.tolist()), 1, nnunet_raw)["configurations"]["2d"]
        plane = transposition(view)[0][1:]
        assert found["spacing"] == spacing[plane].tolist()
        assert found["median_image_size_in_voxels"] == shape[plane].tolist()


def test_plans_grow_with_the_memory_target(nnunet_raw):  # noqa: F811
    sizes = []
    for gigabytes in (0.5, None):
        found = plan("nnUNetPlannerCoronal", ((128, 192, 192), (1.0, 1.0, 1.0)), 1, nnunet_raw, gb=gigabytes)
        sizes.append(found["configurations"]["2d"]["batch_size"] * np.prod(found["configurations"]["2d"]["patch_size"]))
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("view", VIEWS)
def test_preprocessed_slices_come_from_the_stated_axis(view, nnunet_raw):  # noqa: F811
    shape, spacing = (12, 14, 16), [1.0, 1.0, 1.0]
    plans = PlansManager(plan(planner_name(view), (shape, spacing), 1, nnunet_raw))
    configuration = plans.get_configuration("2d")
    position = np.indices(shape)[VIEWS[view]][None].astype(np.float32) + 1
    dataset_json = {"channel_names": {"0": "T1"}, "labels": LABELS, "file_ending": ".nii.gz"}
    data, _, _ = configuration.preprocessor_class(verbose=False).run_case_npy(position, None, {"spacing": spacing}, plans, configuration,
                                                                              dataset_json)
    slices = data[0].reshape(shape[VIEWS[view]], -1)
    assert np.allclose(np.ptp(slices, axis=1), 0), "each slice lies at one position of the axis"
    assert (np.diff(slices[:, 0]) > 0).all(), "and they follow each other"


@pytest.mark.parametrize("view", VIEWS)
def test_single_slices_are_refused(view, nnunet_raw):  # noqa: F811
    with pytest.raises(ValueError, match="single slices"):
        plan(planner_name(view), ((1, 200, 180), (999.0, 1.0, 1.0)), 1, nnunet_raw)


def test_views_have_one_order_and_unknown_ones_are_named():
    assert checked_views(["sagittal", "axial", "sagittal"]) == ("axial", "sagittal")
    with pytest.raises(ValueError, match="'oblique'; choose of axial, coronal, sagittal"):
        checked_views(["axial", "oblique"])
    with pytest.raises(ValueError, match="choose of"):
        checked_views([])


@pytest.mark.parametrize(("directions", "expected"), [
    ([np.eye(3), np.diag([-1, -1, 1])], None),
    ([np.eye(3)[[2, 0, 1]]] * 2, "other names"),
    ([np.eye(3), np.eye(3)[[2, 0, 1]]], "mixes planes"),
])
def test_unusual_axes_are_noted(tmp_path, directions, expected):
    images = {}
    for number, direction in enumerate(directions):
        image = sitk.Image(3, 4, 5, sitk.sitkUInt8)
        image.SetDirection(direction.ravel().astype(float).tolist())
        images[f"case_{number}"] = tmp_path / f"case_{number}_0000.nii.gz"
        sitk.WriteImage(image, str(images[f"case_{number}"]))
    note = orientation_note(images, reader="SimpleITKIO")
    assert note is None if expected is None else (expected in note and "case_" in note)
    assert orientation_note(images, reader="NibabelIOWithReorient") is None


# --- fusion ------------------------------------------------------------------------------------------------------------------------


def softmax_maps(number: int, *, seed: int = 0, shape=(7, 8, 9), classes: int = 3) -> np.ndarray:
    """(number, classes, *shape) float32, alike but not equal, foreground in the middle."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(1, classes, *shape)) * 2 + generator.normal(size=(number, classes, *shape))
    border = np.ones(shape, bool)
    border[1:-1, 1:-1, 1:-1] = False
    logits[:, 0, border] = 20
    weights = np.exp(logits)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def saved(folder: Path, maps: np.ndarray) -> list[Path]:
    files = []
    for number, probabilities in enumerate(maps):
        files.append(folder / f"view_{number}.npz")
        np.savez_compressed(files[-1], probabilities=probabilities)
    return files


@pytest.fixture
def label_manager() -> LabelManager:
    return LabelManager({**LABELS, "ignore": 3}, regions_class_order=None)


@pytest.mark.parametrize("method", METHODS)
def test_equal_views_fuse_to_themselves(method, label_manager, tmp_path):
    maps = np.repeat(softmax_maps(1), 3, axis=0)
    assert np.array_equal(fuse_files(saved(tmp_path, maps), method=method, label_manager=label_manager), maps[0].argmax(0))


@pytest.mark.parametrize("method", METHODS)
def test_order_of_views_changes_nothing(method, label_manager, tmp_path):
    files = saved(tmp_path, softmax_maps(3))
    first, *others = (fuse_files(order, method=method, label_manager=label_manager) for order in itertools.permutations(files))
    assert len(others) == 5 and all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize("method", METHODS)
def test_background_around_the_volume_changes_nothing(method, label_manager, tmp_path):
    maps = softmax_maps(3)
    padded = np.zeros((3, 3, 20, 21, 22), np.float32)
    padded[:, 0] = 1
    inside = (slice(5, 12), slice(6, 14), slice(7, 16))
    padded[(slice(None), slice(None), *inside)] = maps
    alone = fuse_files(saved(tmp_path, maps), method=method, label_manager=label_manager)
    fused = fuse_files(saved(tmp_path, padded), method=method, label_manager=label_manager)
    assert np.array_equal(fused[inside], alone)
    assert np.count_nonzero(fused) == np.count_nonzero(alone) > 0


def test_mean_is_the_mean_by_hand(label_manager, tmp_path):
    first = np.zeros((3, 1, 1, 2), np.float32)
    first[:, 0, 0, 0], first[:, 0, 0, 1] = (0.5, 0.4, 0.1), (0.1, 0.3, 0.6)
    second = np.zeros_like(first)
    second[:, 0, 0, 0], second[:, 0, 0, 1] = (0.2, 0.6, 0.2), (0.5, 0.5, 0.0)
    # means: (.35, .5, .15) and (.3, .4, .3)
    fused = fuse_files(saved(tmp_path, np.stack([first, second])), method="mean", label_manager=label_manager)
    assert fused.tolist() == [[[1, 1]]]


def test_majority_wins_and_a_tie_goes_to_the_most_probable_of_the_tied():
    labels = [np.array([[[1, 0, 0]]]), np.array([[[1, 1, 1]]]), np.array([[[0, 2, 2]]])]
    mean = np.zeros((4, 1, 1, 3), np.float32)
    mean[:, 0, 0, 0] = 0.9, 0.1, 0.0, 0.0  # two votes for 1 count more than the probability of 0
    mean[:, 0, 0, 1] = 0.2, 0.3, 0.1, 0.4  # 3 has no vote
    mean[:, 0, 0, 2] = 0.1, 0.2, 0.3, 0.4
    assert majority(labels, mean).tolist() == [[[1, 1, 2]]]


def test_majority_is_simpleitks_where_that_decides():
    maps = softmax_maps(3, seed=2)
    labels = [found.argmax(0).astype(np.uint8) for found in maps]
    voted = sitk.GetArrayFromImage(sitk.LabelVoting([sitk.GetImageFromArray(found) for found in labels], 9))
    decided = voted != 9
    assert 0 < np.count_nonzero(~decided) < decided.size
    assert np.array_equal(majority(labels, maps.mean(0))[decided], voted[decided])


def test_staple_trusts_reliable_raters_more_than_the_majority_does():
    """Two raters right on most voxels, three that guess: the vote errs where the three happen to agree."""
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 2, (14, 14, 14)).astype(np.uint8)
    wrong = [generator.random(truth.shape) < share for share in (0.02, 0.02, 0.45, 0.45, 0.45)]
    labels = [np.where(flipped, 1 - truth, truth) for flipped in wrong]
    mean = np.stack([np.mean([found == label for found in labels], axis=0) for label in (0, 1)])
    right = {fuse.__name__: np.mean(fuse(labels, mean) == truth) for fuse in (majority, staple)}
    assert right["staple"] > right["majority"] + 0.02 and right["staple"] > 0.97


def test_staple_of_views_that_see_nothing_is_nothing():
    empty = [np.zeros((3, 4, 5), np.uint8)] * 3
    assert not staple(empty, np.full((2, 3, 4, 5), 0.5, np.float32)).any()


def test_more_labels_than_a_byte_holds_survive(tmp_path):
    labels = {"background": 0, **{f"part {number}": number for number in range(1, 301)}}
    maps = np.zeros((3, 301, 2, 2, 2), np.float32)
    for number, label in enumerate((300, 300, 299)):
        maps[number, label] = 1
    for method in METHODS:
        fused = fuse_files(saved(tmp_path, maps), method=method, label_manager=LabelManager(labels, None))
        assert (fused == 300).all(), method


def test_regions_have_a_mean_and_no_votes(tmp_path):
    regions = LabelManager({"background": 0, "whole": [1, 2], "core": 2}, regions_class_order=[1, 2])
    maps = np.zeros((2, 2, 1, 1, 2), np.float32)
    maps[:, 0, 0, 0] = (0.9, 0.2), (0.7, 0.2)  # whole
    maps[:, 1, 0, 0] = (0.9, 0.0), (0.3, 0.0)  # core, .6 on average
    files = saved(tmp_path, maps)
    assert fuse_files(files, method="mean", label_manager=regions).tolist() == [[[2, 0]]]
    for method in ("majority", "staple"):
        with pytest.raises(ValueError, match="regions.*use the fusion mean"):
            fuse_files(files, method=method, label_manager=regions)


def test_unknown_fusions_and_damaged_files_end_in_a_sentence(label_manager, tmp_path):
    files = saved(tmp_path, softmax_maps(2))
    with pytest.raises(ValueError, match="no fusion 'median'; choose of mean, majority, staple"):
        fuse_files(files, method="median", label_manager=label_manager)
    files[1].write_bytes(files[1].read_bytes()[:200])
    with pytest.raises(ValueError, match="damaged"):
        fuse_files(files, method="mean", label_manager=label_manager)


@pytest.mark.parametrize("ending", [".nii.gz", ".tif"])
def test_fused_file_keeps_the_geometry_of_the_image(ending, nnunet_folders):
    """A file in the dataset's format, written from what nnU-Net remembers of the image."""
    reader = {".nii.gz": SimpleITKIO, ".tif": Tiff3DIO}[ending]
    images = nnunet_folders.raw / "images"
    images.mkdir()
    image = write_image(images / f"a_0000{ending}", np.zeros((7, 8, 9), np.float32))
    _, properties = reader().read_images((str(image),))
    maps = softmax_maps(3)
    made = fuse_cases({"a": saved_with(properties, nnunet_folders.preprocessed, maps)}, nnunet_folders.results / "out",
                      model=pretended_model(nnunet_folders, ending, reader.__name__), method="majority", progress=False)
    assert [path.name for path in made] == [f"a{ending}"]
    assert not any(path.name.startswith(".") for path in made[0].parent.iterdir())
    labels, kept = reader().read_seg(str(made[0]))
    assert np.array_equal(labels[0], majority([found.argmax(0) for found in maps], maps.mean(0)))
    assert np.allclose(kept["spacing"], properties["spacing"])
    if ending == ".nii.gz":
        written, original = sitk.ReadImage(str(made[0])), sitk.ReadImage(str(image))
        assert written.GetOrigin() == original.GetOrigin() and written.GetDirection() == original.GetDirection()


def write_image(path: Path, voxels: np.ndarray) -> Path:
    """An image with its own voxel size, place and direction."""
    if path.name.endswith(".tif"):
        import tifffile

        tifffile.imwrite(path, voxels)
        path.with_name(path.name.replace("_0000.tif", ".json")).write_text(json.dumps({"spacing": [2.0, 1.5, 1.25]}))
        return path
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing([1.25, 1.5, 2.0])
    image.SetOrigin([-10.0, 20.0, 30.5])
    image.SetDirection([-1, 0, 0, 0, -1, 0, 0, 0, 1])
    sitk.WriteImage(image, str(path))
    return path


def saved_with(properties: dict, folder: Path, maps: np.ndarray) -> list[Path]:
    files = saved(folder, maps)
    for file in files:
        save_pickle(properties, str(file.with_suffix(".pkl")))
    return files


def pretended_model(folders, ending: str, reader: str):
    model = ViewModel("axial", "Dataset001_Made", TRAINER)
    model.folder.mkdir(parents=True)
    (model.folder / "dataset.json").write_text(json.dumps({"labels": LABELS, "file_ending": ending, "channel_names": {"0": "T1"}}))
    (model.folder / "plans.json").write_text(json.dumps({"image_reader_writer": reader, "label_manager": "LabelManager"}))
    return model


# --- bad input of the command ------------------------------------------------------------------------------------------------------


def write_dataset(raw: Path, *, cases: int = 4, shape=(20, 24, 28), ending: str = ".nii.gz") -> Path:
    """Bright boxes in noise, one label each side of the middle, as a raw dataset with one fold and a test image."""
    folder = raw / "Dataset704_Boxes"
    generator = np.random.default_rng(0)
    for subfolder in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / subfolder).mkdir(parents=True)
    names = [f"case_{number}" for number in range(cases)]
    for name in [*names, "new_0", "new_1"]:
        label = np.zeros(shape, np.uint8)
        z, y, x = generator.integers(2, 6, 3)
        label[z : z + 12, y : y + 14, x : x + 8] = 1
        label[z : z + 12, y : y + 14, x + 8 : x + 16] = 2
        image = label + generator.normal(size=shape).astype(np.float32) * 0.2
        write_image(folder / ("imagesTs" if name.startswith("new") else "imagesTr") / f"{name}_0000{ending}", image)
        if not name.startswith("new"):
            write_image(folder / "labelsTr" / f"{name}{ending}", label)
    dataset_json = {"channel_names": {"0": "T1"}, "labels": LABELS, "numTraining": cases, "file_ending": ending,
                    "overwrite_image_reader_writer": "SimpleITKIO"}
    (folder / "dataset.json").write_text(json.dumps(dataset_json))
    (folder / "splits_final.json").write_text(json.dumps([{"train": names[2:], "val": names[:2]}]))
    return folder


def refused(capsys, *argv: str) -> str:
    assert main([*argv]) == 2
    sentence = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence.startswith("nnneuro_views: error: ")
    return sentence


def test_bad_datasets_are_refused_before_anything_runs(nnunet_folders, capsys):
    assert "no dataset '999'" in refused(capsys, "train", "999")
    dataset = write_dataset(nnunet_folders.raw)
    assert "no view 'oblique'" in refused(capsys, "train", "704", "--views", "oblique")
    (dataset / "labelsTr" / "case_1.nii.gz").unlink()
    assert "no file" in (sentence := refused(capsys, "train", "704")) and "labelsTr/case_1.nii.gz" in sentence
    assert not list(nnunet_folders.preprocessed.iterdir())


def test_single_slices_are_refused_before_anything_runs(nnunet_folders, capsys):
    write_dataset(nnunet_folders.raw, shape=(1, 24, 28))
    assert "single slice" in refused(capsys, "train", "Dataset704_Boxes")
    assert not list(nnunet_folders.preprocessed.iterdir())


def test_views_that_are_not_trained_are_named(nnunet_folders, capsys, tmp_path):
    write_dataset(nnunet_folders.raw)
    arguments = ("-i", str(nnunet_folders.raw / "Dataset704_Boxes" / "imagesTs"), "-o", str(tmp_path / "out"), "-d", "704")
    assert "the view axial is not trained with nnUNetTrainer" in refused(capsys, "predict", *arguments)
    assert "the view coronal is not trained" in refused(capsys, "ablate", "704", "--views", "coronal")
    for view, fold in (("axial", 0), ("coronal", 0), ("sagittal", 1)):
        checkpoint = nnunet_folders.results / f"Dataset704_Boxes/nnUNetTrainer__{plans_name(view)}__2d/fold_{fold}/checkpoint_final.pth"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.touch()
    assert "no trained fold in common (axial: 0; coronal: 0; sagittal: 1)" in refused(capsys, "predict", *arguments)
    assert "fold 0 of the view sagittal is not trained" in refused(capsys, "predict", *arguments, "-f", "0")
    assert not (tmp_path / "out").exists()


# --- what is done and what is not, with imitations of nnU-Net's commands --------------------------------------------------------------


class PretendedNnunet:
    """Stands for `run_command`: notes each command and leaves the files that nnU-Net's would."""

    def __init__(self, folders):
        self.folders = folders
        self.commands: list[tuple[str, ...]] = []

    def __call__(self, command, *, log, say, variables=None):
        self.commands.append(tuple(command))
        option = dict(itertools.pairwise(command))
        {"nnUNetv2_plan_and_preprocess": self.plan, "nnUNetv2_train": self.train, "nnUNetv2_predict": self.predict}[command[0]](option)

    def taken(self) -> list[tuple[str, ...]]:
        taken, self.commands = self.commands, []
        return taken

    def plan(self, option):
        name = option["-pl"].replace("Planner", "Plans")
        folder, raw = self.folders.preprocessed / "Dataset704_Boxes", self.folders.raw / "Dataset704_Boxes"
        (folder / f"{name}_2d").mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps({
            "plans_name": name, "configurations": {"2d": {"data_identifier": f"{name}_2d"}}, "image_reader_writer": "SimpleITKIO",
            "label_manager": "LabelManager", MEMORY_KEY: float(option.get("-gpu_memory_target", 8)), DATASET_KEY: dataset_digest(raw)}))
        for image in (raw / "imagesTr").iterdir():
            (folder / f"{name}_2d" / image.name.replace("_0000.nii.gz", ".pkl")).touch()

    def train(self, option):
        preprocessed, raw = self.folders.preprocessed / "Dataset704_Boxes", self.folders.raw / "Dataset704_Boxes"
        model = self.folders.results / "Dataset704_Boxes" / f"{option['-tr']}__{option['-p']}__2d"
        validation = model / f"fold_{option['2d']}" / "validation"
        validation.mkdir(parents=True, exist_ok=True)
        (model / "plans.json").write_bytes((preprocessed / f"{option['-p']}.json").read_bytes())
        (model / "dataset.json").write_bytes((raw / "dataset.json").read_bytes())
        (validation.parent / "checkpoint_final.pth").touch()
        (validation / "case_0.npz").touch()
        (validation / "summary.json").write_text(json.dumps({"metric_per_case": [{"prediction_file": "/x/case_0.nii.gz"}]}))

    def predict(self, option):
        folder = Path(option["-o"])
        folder.mkdir(parents=True, exist_ok=True)
        for image in Path(option["-i"]).glob("*_0000.nii.gz"):
            case = image.name.removesuffix("_0000.nii.gz")
            voxels, properties = SimpleITKIO().read_images((str(image),))
            maps = softmax_maps(1, seed=len(self.commands), shape=voxels.shape[1:])
            (folder / f"{case}.nii.gz").touch()
            saved_with(properties, folder, maps)
            for ending in ("npz", "pkl"):
                (folder / f"view_0.{ending}").rename(folder / f"{case}.{ending}")


@pytest.fixture
def nnunet(nnunet_folders, monkeypatch) -> PretendedNnunet:
    pretended = PretendedNnunet(nnunet_folders)
    monkeypatch.setattr("nnunet_neuro.views.training.run_command", pretended)
    monkeypatch.setattr("nnunet_neuro.views.prediction.run_command", pretended)
    write_dataset(nnunet_folders.raw)
    return pretended


TRAIN = ("train", "704", "-device", "cpu")


def test_training_repeats_nothing_and_goes_on_where_it_stopped(nnunet):
    assert main([*TRAIN]) == 0
    first = nnunet.taken()
    assert [command[0] for command in first] == ["nnUNetv2_plan_and_preprocess"] * 3 + ["nnUNetv2_train"] * 3, "one fold, as its splits say"
    assert not any({"--c", "--val", "--clean"} & set(command) for command in first)
    assert all("--npz" in command for command in first[3:])
    assert main([*TRAIN]) == 0 and nnunet.taken() == []

    models = nnunet.folders.results / "Dataset704_Boxes"
    axial, coronal = (models / f"nnUNetTrainer__{plans_name(view)}__2d/fold_0" for view in ("axial", "coronal"))
    (axial / "checkpoint_final.pth").rename(axial / "checkpoint_latest.pth")
    (coronal / "validation" / "case_0.npz").unlink()
    next((nnunet.folders.preprocessed / "Dataset704_Boxes/nnUNetPlansSagittal_2d").iterdir()).unlink()
    assert main([*TRAIN]) == 0
    planned, continued, validated = nnunet.taken()
    assert "nnUNetPlannerSagittal" in planned and "--clean" not in planned
    assert "nnUNetPlansAxial" in continued and "--c" in continued
    assert "nnUNetPlansCoronal" in validated and "--val" in validated
    assert main([*TRAIN, "--views", "sagittal", "-f", "0", "all"]) == 0
    assert [command[:4] for command in nnunet.taken()] == [("nnUNetv2_train", "Dataset704_Boxes", "2d", "all")]


def test_plans_keep_their_memory_target(nnunet, capsys):
    assert main([*TRAIN, "--views", "axial", "--gpu-memory", "0.5"]) == 0
    assert "0.5" in nnunet.taken()[0]
    assert main([*TRAIN, "--views", "axial"]) == 0 and main([*TRAIN, "--views", "axial", "--gpu-memory", "0.5"]) == 0
    assert nnunet.taken() == []
    assert "were made for 0.5 GB, and 2 GB are wanted" in refused(capsys, *TRAIN, "--gpu-memory", "2")


def test_changed_dataset_is_planned_anew_and_not_mixed_with_old_models(nnunet, capsys):
    assert main([*TRAIN]) == 0
    nnunet.taken()
    dataset_json = nnunet.folders.raw / "Dataset704_Boxes" / "dataset.json"
    dataset_json.write_text(json.dumps({**json.loads(dataset_json.read_text()), "name": "changed"}))
    assert "move the folder away to train anew" in refused(capsys, *TRAIN) and nnunet.taken() == []
    models = nnunet.folders.results / "Dataset704_Boxes"
    assert len(list(models.rglob("checkpoint_final.pth"))) == 3
    models.rename(nnunet.folders.results / "old")
    assert main([*TRAIN]) == 0
    assert ["--clean" in command for command in nnunet.taken()] == [True] * 3 + [False] * 3


def test_models_of_other_plans_are_not_mixed(nnunet, capsys):
    assert main([*TRAIN, "--views", "axial"]) == 0
    (nnunet.folders.preprocessed / "Dataset704_Boxes" / "nnUNetPlansAxial.json").unlink()
    nnunet.taken()
    assert "trained with other plans" in refused(capsys, *TRAIN, "--views", "axial", "--gpu-memory", "2", "-f", "1")
    assert [command[0] for command in nnunet.taken()] == ["nnUNetv2_plan_and_preprocess"]


def test_predictions_are_used_again_only_for_the_same_request(nnunet, tmp_path):
    assert main([*TRAIN]) == 0
    nnunet.taken()
    images, out = nnunet.folders.raw / "Dataset704_Boxes" / "imagesTs", tmp_path / "out"
    predict = ("predict", "-i", str(images), "-o", str(out), "-d", "704", "-device", "cpu")
    assert main([*predict, "--keep-views"]) == 0 and len(nnunet.taken()) == 3
    assert {path.name for path in out.iterdir()} == {"new_0.nii.gz", "new_1.nii.gz", "dataset.json", "fusion.json", "views"}
    mean = (out / "new_0.nii.gz").read_bytes()
    assert main([*predict, "--keep-views", "--fuse", "majority"]) == 0 and nnunet.taken() == []
    assert (out / "new_0.nii.gz").read_bytes() != mean
    (out / "views" / "coronal" / "new_1.nii.gz").unlink()  # as an interruption leaves it
    assert main([*predict, "--keep-views"]) == 0
    (continued,) = nnunet.taken()
    assert "--continue_prediction" in continued and "nnUNetPlansCoronal" in continued
    (images / "new_1_0000.nii.gz").unlink()
    assert main([*predict]) == 0
    assert len(commands := nnunet.taken()) == 3 and not any("--continue_prediction" in command for command in commands)
    assert not (out / "views").exists()


def test_bad_images_are_refused_before_anything_runs(nnunet, capsys, tmp_path):
    assert main([*TRAIN]) == 0
    nnunet.taken()
    images, out = nnunet.folders.raw / "Dataset704_Boxes" / "imagesTs", tmp_path / "out"
    predict = ("predict", "-o", str(out), "-d", "704", "-device", "cpu", "-i")
    assert "no folder" in refused(capsys, *predict, str(tmp_path / "nothing"))
    assert "no file CASE_0000.nii.gz" in refused(capsys, *predict, str(tmp_path))
    (images / "new_0_0000.nii.gz").rename(images / "new_0_0001.nii.gz")
    assert "new_0_0000.nii.gz" in refused(capsys, *predict, str(images))
    (images / "new_0_0001.nii.gz").rename(images / "new_0_0000.nii.gz")
    assert "no fusion 'median'" in refused(capsys, *predict, str(images), "--fuse", "median")
    (out / "views").mkdir(parents=True)
    assert "no folder of nnneuro_views" in refused(capsys, *predict, str(images))
    assert nnunet.taken() == []


def test_ablation_asks_for_validation_probabilities_and_real_folds(nnunet, capsys):
    assert main([*TRAIN, "-f", "0", "all"]) == 0
    assert "fold all is validated on its own training cases" in refused(capsys, "ablate", "704", "-f", "all")
    validation = nnunet.folders.results / "Dataset704_Boxes/nnUNetTrainer__nnUNetPlansCoronal__2d/fold_0/validation"
    for view in VIEWS:
        (nnunet.folders.results / f"Dataset704_Boxes/nnUNetTrainer__{plans_name(view)}__2d/fold_0/validation/case_0.nii.gz").touch()
    (validation / "case_0.npz").unlink()
    assert "no validation probabilities of case_0" in (sentence := refused(capsys, "ablate", "704")) and "Coronal" in sentence
    for ending in ("npz", "nii.gz"):
        (validation / f"case_7.{ending}").touch()
        (validation / f"case_0.{ending}").unlink(missing_ok=True)
    assert "not validated on the same cases" in refused(capsys, "ablate", "704", "-f", "0")


# --- the whole road ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_views_are_trained_predicted_fused_and_compared(nnunet_folders, monkeypatch, capsys, tmp_path):
    for name, value in {"NNNEURO_EPOCHS": "1", "NNNEURO_ITERATIONS": "2", "NNNEURO_VAL_ITERATIONS": "1", "nnUNet_n_proc_DA": "0",
                        "nnUNet_npp": "1", "nnUNet_nps": "1"}.items():
        monkeypatch.setenv(name, value)
    dataset = write_dataset(nnunet_folders.raw)
    train = ("train", "704", "-tr", TRAINER, "-device", "cpu", "--gpu-memory", "0.05")
    assert main([*train]) == 0
    models = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in models] == [f"{TRAINER}__{plans_name(view)}__2d" for view in VIEWS]
    assert [PlansManager(str(path / "plans.json")).transpose_forward for path in models] == [transposition(view)[0] for view in VIEWS]
    assert main([*train]) == 0
    said = capsys.readouterr().err
    assert said.count("done already") == 6 and "  $ " not in said
    _predicts_and_fuses(dataset, tmp_path / "out", capsys)
    _compares(nnunet_folders, tmp_path / "table", capsys)


def _predicts_and_fuses(dataset: Path, out: Path, capsys) -> None:
    predict = ("predict", "-i", str(dataset / "imagesTs"), "-o", str(out), "-d", "704", "-tr", TRAINER, "-device", "cpu")
    assert main([*predict, "--keep-views"]) == 0
    made = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert made == [out / "new_0.nii.gz", out / "new_1.nii.gz"]
    for path in made:
        probabilities = [np.load(out / "views" / view / path.name.replace(".nii.gz", ".npz"))["probabilities"] for view in VIEWS]
        written = sitk.ReadImage(str(path))
        assert np.array_equal(sitk.GetArrayFromImage(written), np.mean(probabilities, axis=0).argmax(0))
        image = sitk.ReadImage(str(dataset / "imagesTs" / path.name.replace(".nii.gz", "_0000.nii.gz")))
        assert written.GetDirection() == image.GetDirection() and written.GetOrigin() == image.GetOrigin()
    assert main([*predict, "--fuse", "staple"]) == 0
    assert capsys.readouterr().err.count("done already") == 3
    assert not (out / "views").exists()
    assert json.loads((out / "fusion.json").read_text())["fusion"] == "staple"


def _compares(folders, out: Path, capsys) -> None:
    assert main(["ablate", "704", "-tr", TRAINER, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 3 + 3 * 3 + 3, "single views, and pairs and all of them by three fusions"
    with (out / "ablation.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert {row["case"] for row in table} == {"case_0", "case_1", ""}
    single = [float(row["Dice"]) for row in table if (row["views"], row["row"]) == ("coronal", "mean")]
    summary = json.loads((folders.results / f"Dataset704_Boxes/{TRAINER}__{plans_name('coronal')}__2d/fold_0/validation/summary.json")
                         .read_text())
    assert np.allclose(single, [summary["mean"][label]["Dice"] for label in ("1", "2")], atol=1e-5), "a view alone scores as nnU-Net says"
    assert not any(path.name.startswith(".") for path in out.iterdir())
