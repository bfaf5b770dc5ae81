"""`nnneuro_doctor`: what it lists, and that it reports what is broken instead of failing."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest

from nnunet_neuro.commands.doctor import main
from nnunet_neuro.doctor import EXTRAS
from nnunet_neuro.startup import plugin_classes

pytestmark = pytest.mark.slow


def test_lists_every_class_with_its_purpose(nnunet_folders, capsys):
    code = main([])
    said = capsys.readouterr().out
    for plugin in plugin_classes().values():
        assert plugin.purpose
        assert any(line.startswith(f"  ok  {plugin.name}") and line.endswith(f"seen by nnU-Net. {plugin.purpose}")
                   for line in said.splitlines())
    for word in ("nnunetv2", "torchvision", "GPU", "loaded by every interpreter"):
        assert word in said
    assert str(nnunet_folders.raw) in said
    assert code == 0, said


@pytest.mark.parametrize("version", ["1.2.3", None])
def test_extras_are_listed_and_none_is_a_must(version, nnunet_folders, monkeypatch, capsys):
    find, packages = importlib.metadata.version, {package for package, _ in EXTRAS.values()}

    def version_of(package: str) -> str:
        if package not in packages:
            return find(package)
        if version is None:
            raise importlib.metadata.PackageNotFoundError(package)
        return version

    monkeypatch.setattr(importlib.metadata, "version", version_of)
    assert main([]) == 0
    said = capsys.readouterr().out.splitlines()
    for extra, (package, use) in EXTRAS.items():
        (line,) = (line for line in said if line.split()[1:2] == [extra])
        assert line.startswith("  ok ") and use in line
        assert (f"{package} 1.2.3" in line) == (version is not None)
        assert (f"pip install 'nnunet_neuro[{extra}]'" in line) == (version is None)


def test_every_extra_of_the_package_is_known():
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = project["optional-dependencies"]
    assert set(EXTRAS) == set(declared) - {"test"}
    for extra, (package, _) in EXTRAS.items():
        assert any(requirement.startswith(package) for requirement in declared[extra])


def test_names_what_is_missing(monkeypatch, capsys):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert main([]) == 1
    troubled = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("  !!")]
    assert troubled == ["torchvision", "nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"]


def test_says_that_the_hook_is_off(nnunet_folders, monkeypatch, capsys):
    monkeypatch.setenv("NNNEURO_AUTOLOAD", "0")
    assert main([]) == 1
    assert "switched off by NNNEURO_AUTOLOAD=0" in capsys.readouterr().out
