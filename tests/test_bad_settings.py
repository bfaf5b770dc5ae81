"""Options, patterns, tables and folders that cannot be: each command ends with exit code 2 and one sentence, and writes nothing whole.

The common slips are in `test_volumes_converter.py`; here are the rarer ones.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.fake_sources.volumes import write_pair
from tests.test_volumes_converter import CLASSES, SPACING, convert, dataset_of, refused

# gives the arguments for a folder with the pairs a and b below em/ and seg/
Arguments = Callable[[Path], list]


def pairs(*more) -> Arguments:
    return lambda folder: ["--image", f"{folder}/em/{{case}}.tif", "--label", f"{folder}/seg/{{case}}.tif", *CLASSES, *SPACING, *more]


def foreground(*more) -> Arguments:
    return lambda folder: ["--image", f"{folder}/em/{{case}}.tif", "--label", f"{folder}/seg/{{case}}.tif", *SPACING, "--variant",
                           "foreground", *more]


def patterns(image: str, label: str = "seg/{case}.tif", *more) -> Arguments:
    return lambda folder: ["--image", f"{folder}/{image}", "--label", f"{folder}/{label}", *CLASSES, *SPACING, *more]


def table(text: str, encoding: str = "utf-8") -> Arguments:
    def arguments(folder: Path) -> list:
        (folder / "cases.csv").write_text(text, encoding=encoding)
        return ["--table", folder / "cases.csv", *CLASSES, *SPACING]

    return arguments


def after(change: Callable[[Path], object], arguments: Arguments) -> Arguments:
    def make(folder: Path) -> list:
        change(folder)
        return arguments(folder)

    return make


def copied(*names: str) -> Callable[[Path], object]:
    """The first volume once more under other names."""
    return lambda folder: [shutil.copy(folder / part / "a.tif", folder / part / name) for part in ("em", "seg") for name in names]


def of_two_channels(folder: Path) -> None:
    np.save(folder / "em/b.npy", np.zeros((2, 8, 12, 10), np.uint16))


def in_raw(folder: Path) -> list:
    """The source within the dataset that is to be written."""
    inside = folder / "raw/Dataset707_Volumes"
    inside.mkdir(parents=True)
    for name in ("a", "b"):
        shutil.copy(folder / f"em/{name}.tif", inside)
    return ["--image", f"{inside}/{{case}}.tif", "--label", f"{folder}/seg/{{case}}.tif", *CLASSES, *SPACING]


# name: (arguments, words of the sentence)
BAD: dict[str, tuple[Arguments, str]] = {
    # classes
    "foreground called background": (foreground("--foreground-name", "background"), "at least one class beside background"),
    "foreground called ignore": (foreground("--foreground-name", "ignore"), "at least one class beside background"),
    "foreground without a name": (foreground("--foreground-name", " "), "expected a name"),
    "threshold that is no number": (foreground("--threshold", "nan"), "threshold of nan"),
    "threshold beyond numbers": (foreground("--threshold", "inf"), "threshold of inf"),
    # cutting
    "no groups": (pairs("--groups-per-volume", "0"), "into 0 slabs"),
    "negative groups": (pairs("--groups-per-volume", "-2"), "into -2 slabs"),
    "more groups than planes": (pairs("--groups-per-volume", "13"), "fewer slabs"),
    "negative gap": (pairs("--groups-per-volume", "2", "--gap", "-1"), "-1 voxels between"),
    "gap of the whole volume": (pairs("--groups-per-volume", "2", "--gap", "11"), "smaller gap"),
    # the dataset
    "id 0": (pairs("-d", "0"), "dataset id 0"),
    "id of four digits": (pairs("-d", "1000"), "dataset id 1000"),
    "negative id": (pairs("-d", "-5"), "dataset id -5"),
    "name of a path": (pairs("--name", "../Volumes"), "dataset name '../Volumes'"),
    "name of two underscores": (pairs("--name", "My__Volumes"), "single underscores"),
    "empty name": (pairs("--name", ""), "dataset name ''"),
    "name that no file can have": (pairs("--name", "x" * 300), "File name too long"),
    "stacks as flat images": (pairs("--file-ending", ".png"), "8 planes"),
    "raw folder that is a file": (lambda folder: [*pairs()(folder), "--raw", folder / "em/a.tif"], "em/a.tif"),
    "raw folder within a file": (lambda folder: [*pairs()(folder), "--raw", folder / "em/a.tif/raw"], "em/a.tif"),
    "source within the dataset": (in_raw, "lies in the dataset"),
    # patterns
    "only test volumes": (lambda folder: ["--test-image", f"{folder}/em/{{case}}.tif", *CLASSES, *SPACING], "need --image and --label"),
    "only labels": (lambda folder: ["--label", f"{folder}/seg/{{case}}.tif", *CLASSES, *SPACING], "no volumes are named"),
    "open brace": (patterns("em/{case.tif"), "holds {case.tif"),
    "empty braces": (patterns("em/{}.tif"), "holds {}"),
    "everything": (patterns("**", "**"), "both fit"),
    "image that is not there": (patterns("em/c.tif", "seg/a.tif"), "no file"),
    "files of another kind": (after(lambda folder: [(folder / f"em/{name}.xlsx").touch() for name in "ab"], patterns("em/{case}.xlsx")),
                              "not a volume"),
    "null character": (patterns("em/\0.tif", "seg/a.tif"), "no file"),
    "image and label exchanged": (patterns("seg/{case}.tif", "em/{case}.tif"), "holds the value"),
    "HDF5 file that is not there": (patterns("em/a.h5/raw", "seg/a.tif"), "no file"),
    "names that become one": (after(copied("c d.tif", "c_d.tif"), pairs()), "two cases are called c-d"),
    "test volumes of more channels": (lambda folder: [*pairs()(folder), "--test-image", f"x={folder}/em/{{case}}.tif", "--test-image",
                                                      f"y={folder}/em/{{case}}.tif"], "2 channels, expected 1"),
    # tables
    "table without lines": (table("case,image,label\n"), "lists no case"),
    "column twice": (table("case,image,image,label\na,em/a.tif,em/b.tif,seg/a.tif\n"), "a column twice"),
    "channel twice": (table("case,image,image:image,label\na,em/a.tif,em/b.tif,seg/a.tif\n"), "a column twice"),
    "table in Latin-1": (table("case,image,label\nä,em/a.tif,seg/a.tif\n", "latin-1"), "UTF-8"),
    "table in UTF-16": (table("case,image,label\na,em/a.tif,seg/a.tif\n", "utf-16"), "UTF-8"),
    "too many fields": (table("case,image,label\na,em/a.tif,seg/a.tif\nb,em/b, old.tif,seg/b.tif\n"), "line 3"),
    "endless field": (table("case,image,label\na,em/a.tif," + "x" * 200_000 + "\n"), "no CSV table"),
    "semicolons": (table("case;image;label\na;em/a.tif;seg/a.tif\n"), "columns case;image;label"),
    "quote that is not closed": (table('case,image,label\na,"em/a.tif,seg/a.tif\n'), "no file"),
    "missing channel": (table("case,image,image:two,label\na,em/a.tif,em/b.tif,seg/a.tif\n\nb,em/a.tif,,seg/b.tif\n"), "line 4"),
    "case twice": (table("case,image,label\na,em/a.tif,seg/a.tif\na,em/b.tif,seg/b.tif\n"), "two cases are called a"),
    "table of test volumes": (table("case,split,image\na,test,em/a.tif\n"), "no training case"),
    "training volume without a label": (table("case,image,label\na,em/a.tif,\n"), "has no label"),
    "group in both parts": (table("case,split,group,image,label\na,train,g,em/a.tif,seg/a.tif\nb,val,g,em/b.tif,seg/b.tif\n"), "group 'g'"),
    "channels that differ": (after(of_two_channels, table("case,image,label\na,em/a.tif,seg/a.tif\nb,em/b.npy,seg/b.tif\n")), "2 channels"),
    "a folder for a table": (lambda folder: ["--table", folder / "em", *CLASSES, *SPACING], "no table"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_setting_ends_in_one_sentence(tmp_path, nnunet_folders, capsys, what):
    for name in ("a", "b"):
        write_pair(tmp_path, name)
    arguments, words = BAD[what]
    assert words in refused(capsys, *arguments(tmp_path))
    assert not list(nnunet_folders.raw.rglob("dataset.json")) and not list(nnunet_folders.raw.rglob("splits_final.json"))


WORDS = [
    ("--labels", "1=a,2"), ("--labels", "1=ignore"), ("--labels", "1=a,=b"), ("--labels", "1.5=a"), ("--labels", "9" * 19 + "=a"),
    ("--labels", ""), ("--spacing", "1,1,1,1"), ("--spacing", "1;1;1"), ("--spacing", "0,1,1"), ("--case-size", "64"),
    ("--case-size", "64,64,-64"), ("--case-size", "1e3,64,64"), ("--margin", "1,2"), ("--margin", "1.5"), ("--threshold", "half"),
    ("--variant", "none"), ("-d", "seven"), ("--workers", "0"), ("--limit", "1.5"), ("--file-ending", ".jpg"),
    ("--other-labels", "keep"), ("--missing-chunks", "maybe"), ("--groups-per-volume", "two"), ("--gap", "1.5"),
]


@pytest.mark.parametrize("option", WORDS, ids=" ".join)
def test_bad_word_is_refused_by_the_parser_with_the_option_named(nnunet_folders, option, capsys):
    with pytest.raises(SystemExit) as stopped:
        convert("--image", "x", "--label", "y", *option)
    said = capsys.readouterr().err
    sentence = said.splitlines()[-1]
    assert stopped.value.code == 2 and "Traceback" not in said
    assert option[0] in sentence and option[1].split(",")[-1] in sentence
    assert not list(nnunet_folders.raw.iterdir())


@pytest.mark.parametrize(("image", "label"), [
    ("./em/{case}.tif", "./seg/{case}.tif"), ("em//{case}.tif", ".//seg/./{case}.tif"), ("**/em/{case}.tif", "**/seg/{case}.tif"),
    ("**m/{case}.tif", "?eg/{case}.tif"), ("{group}m/{case}.tif", "s{group}g/{case}.tif"),
])
def test_ways_to_write_a_pattern(tmp_path, nnunet_folders, monkeypatch, image, label):
    for name in ("a", "b"):
        write_pair(tmp_path, name)
    monkeypatch.chdir(tmp_path)
    assert convert("--image", image, "--label", label, *CLASSES, *SPACING) == 0
    assert dataset_of(nnunet_folders)[1]["numTraining"] == 2


def test_errors_of_the_system_say_which_file_and_what_to_do(tmp_path, capsys):
    from nnunet_neuro.commands._run import one_sentence_errors

    @one_sentence_errors("nnneuro_something")
    def main(argv=None):
        (tmp_path / "missing" / "file.json").write_text("{}")

    assert main() == 2
    said = capsys.readouterr().err
    assert said.startswith(f"nnneuro_something: error: {tmp_path / 'missing' / 'file.json'}: No such file or directory; check the path")
    assert said.count("\n") == 1 and "Errno" not in said
