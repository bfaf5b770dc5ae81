"""What every converter in `dataset_converters/` promises; a new one is found here without new test code.

A converter `x.py` needs an imitation `tests/fake_sources/x.py` with `write_source(folder) -> list[str]`, which makes a small source in
its real layout and gives the command line's arguments for it.
"""

from __future__ import annotations

import csv
import importlib
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from nnunet_neuro.commands.convert import main
from nnunet_neuro.converters import REQUIRED, converter_names, load_converter, purpose
from nnunet_neuro.startup import package_files

pytestmark = pytest.mark.parametrize("name", converter_names())

HEAVY = ("torch", "nnunetv2", "SimpleITK", "scipy", "sklearn", "skimage", "tifffile", "nibabel", "matplotlib", "tqdm", "intern",
         "requests", "blosc", "zarr", "h5py", "PIL", "tensorstore", "yaml")


@pytest.fixture
def source(name, tmp_path) -> list[str]:
    """The command for the converter's imitation source."""
    return [name, *importlib.import_module(f"tests.fake_sources.{name}").write_source(tmp_path / "source")]


@pytest.fixture
def dataset(source, nnunet_folders):
    """The dataset made from the converter's imitation source."""
    assert main(source) == 0
    return next(nnunet_folders.raw.iterdir())


def test_module_is_complete(name):
    converter = load_converter(name)
    assert not [attribute for attribute in REQUIRED if not hasattr(converter, attribute)]
    assert len(purpose(converter)) > 20 and "Licence" in converter.__doc__ and "Citation" in converter.__doc__
    assert all(text for text in converter.VARIANTS.values())


def test_ids_and_names_are_unique(name):
    for what in ("DEFAULT_ID", "DEFAULT_NAME"):
        values = [getattr(load_converter(other), what) for other in converter_names()]
        assert len(set(values)) == len(values)


def test_import_is_light(name):
    done = subprocess.run([sys.executable, "-c", f"import sys; import nnunet_neuro.dataset_converters.{name}; "
                           f"print([m for m in {HEAVY!r} if m in sys.modules])"], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("asked", ["--list", "NAME --help"])
def test_help_explains_it_without_anything_heavy(name, asked):
    arguments = asked.replace("NAME", name).split()
    code = ("import sys\nfrom nnunet_neuro.commands.convert import main\n"
            f"try: main({arguments!r})\nexcept SystemExit: pass\n"
            f"print('heavy', [m for m in {HEAVY!r} if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert purpose(load_converter(name)) in done.stdout and "heavy []" in done.stdout, done.stdout[-500:] + done.stderr
    assert all(variant in done.stdout for variant in load_converter(name).VARIANTS)


def test_nnunet_accepts_the_dataset(dataset, name):
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    verify_dataset_integrity(str(dataset), num_processes=1)


def test_description_is_complete(dataset, name):
    description = json.loads((dataset / "dataset.json").read_text())
    assert description["licence"] and description["reference"]
    assert description["overwrite_image_reader_writer"]
    provenance = description["provenance"]
    assert provenance["converter"] == name and provenance["version"] and provenance["sources"]
    for case in provenance["cases"].values():
        assert all(len(source["sha256"]) == 64 and source["path"] for source in case["sources"])
        assert sum(case["label_voxels"].values()) in (0, _product(case["shape"]))


def test_no_group_is_in_two_folds_and_no_test_case_in_any(dataset, name):
    cases = json.loads((dataset / "dataset.json").read_text())["provenance"]["cases"]
    folds = json.loads((dataset / "splits_final.json").read_text())
    assert folds
    for fold in folds:
        train, val = set(fold["train"]), set(fold["val"])
        assert not {cases[case]["group"] for case in train} & {cases[case]["group"] for case in val}
        assert all(cases[case]["split"] != "test" for case in train | val)


def test_dry_run_says_what_a_conversion_writes_and_writes_nothing(source, name, nnunet_folders, capsys):
    assert main([*source, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert not list(nnunet_folders.raw.iterdir())
    assert main(source) == 0
    folder = Path(capsys.readouterr().out.strip())
    description = json.loads((folder / "dataset.json").read_text())
    assert str(folder) in said and description["licence"] in said
    cases = list(description["provenance"]["cases"].values())
    for split, title in (("train", "training"), ("val", "validation"), ("test", "test")):
        of_split = [case for case in cases if case["split"] == split]
        groups = len({case["group"] for case in of_split})
        assert bool(of_split) == bool(re.search(rf"^  {title} +{len(of_split)} cases? of {groups} group", said, re.M))
    voxels = Counter()
    for case in cases:
        if case["split"] == "train":
            voxels.update(case["label_voxels"])
    for label, count in voxels.items():
        assert f"{count / voxels.total():.4%}" in said, label


def test_limit_and_previews(source, name, nnunet_folders, capsys):
    assert main([*source, "--limit", "2", "--preview"]) == 0
    folder, *pictures = (Path(line) for line in capsys.readouterr().out.splitlines())
    cases = json.loads((folder / "dataset.json").read_text())["provenance"]["cases"]
    splits = Counter(case["split"] for case in cases.values())
    assert splits["train"] == 2 and max(splits.values()) == 2
    assert {picture.stem for picture in pictures} <= cases.keys()
    assert sorted(cases[picture.stem]["group"] for picture in pictures) == sorted({case["group"] for case in cases.values()})
    assert all(picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 5000 for picture in pictures)


def test_table_of_cases(dataset, name):
    cases = json.loads((dataset / "dataset.json").read_text())["provenance"]["cases"]
    with (dataset / "cases.csv").open(newline="") as stream:
        rows = {row["case"]: row for row in csv.DictReader(stream)}
    assert rows.keys() == cases.keys()
    for identifier, row in rows.items():
        assert row["group"] == cases[identifier]["group"] and row["split"] == cases[identifier]["split"]
        assert int(row["z"]) * int(row["y"]) * int(row["x"]) == _product(cases[identifier]["shape"])


def test_second_run_changes_nothing(dataset, name, tmp_path):
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in dataset.rglob("*_0000.*")}
    description = (dataset / "dataset.json").read_bytes()
    arguments = importlib.import_module(f"tests.fake_sources.{name}").write_source(tmp_path / "source")
    assert main([name, *arguments]) == 0
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in dataset.rglob("*_0000.*")}
    assert description == (dataset / "dataset.json").read_bytes()


def test_leaf_imports_no_leaf(name):
    import ast

    for package in ("nnunet_neuro.dataset_converters", "nnunet_neuro.trainers"):
        for path in package_files(package):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else \
                    [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not [n for n in names if n.startswith(("trainers", "dataset_converters", "nnunet_neuro.trainers",
                                                              "nnunet_neuro.dataset_converters", "."))], path


def _product(lengths: list[int]) -> int:
    result = 1
    for length in lengths:
        result *= length
    return result
