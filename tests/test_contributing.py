"""What CONTRIBUTING.md shows works as it stands there."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from nnunet_neuro.commands.convert import main
from nnunet_neuro.converters import PACKAGE, REQUIRED, load_converter

CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"


@pytest.fixture
def converter_of_the_text(tmp_path, monkeypatch):
    """The example, put where converters are found."""
    text = CONTRIBUTING.read_text(encoding="utf-8")
    name = re.search(r"`dataset_converters/(\w+)\.py`, for folders", text).group(1)
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    folder = tmp_path / "converters"
    folder.mkdir()
    (folder / f"{name}.py").write_text(code)
    package = importlib.import_module(PACKAGE)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    yield name
    sys.modules.pop(f"{PACKAGE}.{name}", None)


def test_the_example_converter_is_one_file(converter_of_the_text, tmp_path, nnunet_folders, capsys):
    name = converter_of_the_text
    assert all(hasattr(load_converter(name), attribute) for attribute in REQUIRED)
    assert main(["--list"]) == 0
    assert name in capsys.readouterr().out
    for number in range(3):
        for part, array in (("em", np.full((4, 8, 9), 40 + number, np.uint8)), ("membranes", np.full((4, 8, 9), 255, np.uint8))):
            (tmp_path / "source" / part).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(tmp_path / "source" / part / f"slab{number}.tif", array, photometric="minisblack")
    assert main([name, str(tmp_path / "source"), "--workers", "1", "--preview"]) == 0
    folder = nnunet_folders.raw / "Dataset790_Slabs"
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 3
    assert tifffile.imread(folder / "labelsTr/slab1.tif").min() == 1
    (tmp_path / "source/membranes/slab1.tif").unlink()
    assert main([name, str(tmp_path / "source"), "--workers", "1"]) == 2
    assert "no label for" in capsys.readouterr().err
