"""`nnneuro_doctor`: what it lists, and that it reports what is broken instead of failing."""

from __future__ import annotations

import sys

import pytest

from nnunet_neuro.commands.doctor import main
from nnunet_neuro.startup import plugin_classes

pytestmark = pytest.mark.slow


def test_lists_every_class_with_its_purpose(nnunet_folders, capsys):
    code = main([])
    said = capsys.readouterr().out
    for plugin in plugin_classes().values():
        assert plugin.purpose
        line = next(line for line in said.splitlines() if plugin.name in line)
        assert line.startswith("  ok ") and line.endswith(f"seen by nnU-Net. {plugin.purpose}")
    for word in ("nnunetv2", "torchvision", "GPU", "loaded by every interpreter"):
        assert word in said
    assert str(nnunet_folders.raw) in said
    assert code == 0, said


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
