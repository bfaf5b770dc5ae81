"""Wheel, editable install and uninstall, each in a fresh environment.

The fresh environments take the heavy dependencies from this one through a plain path entry, which Python does not search for .pth
files: what is tested is only what pip put there itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[1]
HOOK_FILES = ("_nnunet_neuro_autoload.py", "nnunet_neuro_autoload.pth", "nnunet_neuro_autoload.start")
LOOK_UP = """
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
print(find("nnUNetTrainer").__module__)
print(find("nnUNetTrainerAxialAttention").__module__)
"""
FOUND = ["nnunetv2.training.nnUNetTrainer.nnUNetTrainer", "nnunet_neuro.trainers.nnUNetTrainerAxialAttention"]

pytest.importorskip("hatchling", reason="building the wheel needs hatchling (the test extra brings it)")


class FreshEnvironment:
    """A virtual environment with nothing installed but what `pip` is told."""

    def __init__(self, folder: Path):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        self.python = folder / "bin" / "python"
        self.site = Path(self.run("import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
        # last in the alphabet, so that whatever pip installs here comes first
        (self.site / "zz_dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run(self, code: str, *options: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run([self.python, *options, "-c", code], capture_output=True, text=True, timeout=300, cwd=self.python.parent,
                              env={**_clean_environment(), **environment})

    def pip(self, *arguments: str) -> None:
        done = subprocess.run([sys.executable, "-m", "pip", "--python", str(self.python), *arguments], capture_output=True, text=True,
                              timeout=300, env=_clean_environment())
        assert done.returncode == 0, done.stderr

    def install(self, *what: str) -> None:
        self.pip("install", "--no-deps", "--no-build-isolation", "--no-index", *what)

    def files(self) -> set[Path]:
        return {path.relative_to(self.site) for path in self.site.rglob("*") if "__pycache__" not in path.parts}


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "NNNEURO", "VIRTUAL_ENV", "nnUNet"))}


def assert_found(done: subprocess.CompletedProcess) -> None:
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == FOUND


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the sources, so that a build leaves nothing in the user's."""
    copy = tmp_path_factory.mktemp("sources") / "checkout"
    listed = subprocess.run(["git", "-C", str(PROJECT), "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("needs a git checkout")
    for name in listed.stdout.splitlines():
        if (PROJECT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder),
                    str(checkout)], check=True, timeout=300)
    return next(folder.glob("*.whl"))


@pytest.fixture
def fresh(tmp_path) -> FreshEnvironment:
    return FreshEnvironment(tmp_path / "fresh")


def test_wheel_holds_everything_and_no_general_names(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {*HOOK_FILES} <= set(names)
    assert {name.split("/")[0] for name in names if not name.startswith("nnunet_neuro-")} == {"nnunet_neuro", *HOOK_FILES}
    for part in ("trainers/nnUNetTrainerAxialAttention.py", "dataset_converters/axon.py", "planners/nnUNetPlannerSmall.py",
                 "sample_data/axons/README.md", "sample_data/axons/trailmap/LICENSE", "sample_data/axons/dlmbmap/LICENSE",
                 "sample_data/axons/trailmap/val/volumes/volume-005.tiff"):
        assert f"nnunet_neuro/{part}" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_start_file_names_the_same_call_as_the_pth(wheel):
    archive = zipfile.ZipFile(wheel)
    module, _, function = archive.read("nnunet_neuro_autoload.start").decode().strip().partition(":")
    assert archive.read("nnunet_neuro_autoload.pth").decode().strip() == f"import {module}; {module}.{function}()"


def test_wheel(fresh, wheel):
    fresh.install(str(wheel))
    assert_found(fresh.run(LOOK_UP))
    assert_found(fresh.run(LOOK_UP, "-I"))
    listing = subprocess.run([fresh.python.parent / "nnneuro_convert", "--list"], capture_output=True, text=True, timeout=60,
                             env=_clean_environment())
    assert listing.returncode == 0 and listing.stdout.startswith("axon:"), listing.stderr
    off = fresh.run(LOOK_UP, NNNEURO_AUTOLOAD="0")
    assert off.returncode != 0 and off.stdout.splitlines()[0] == FOUND[0]


def test_editable(fresh, checkout):
    fresh.install("--editable", str(checkout))
    assert_found(fresh.run(LOOK_UP))
    (checkout / "trainers/nnUNetTrainerAddedLater.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        "class nnUNetTrainerAddedLater(nnUNetTrainer):\n    '''Added.'''\n")
    added = fresh.run(LOOK_UP.replace("nnUNetTrainerAxialAttention", "nnUNetTrainerAddedLater"))
    (checkout / "trainers/nnUNetTrainerAddedLater.py").unlink()
    assert added.stdout.splitlines()[1:] == ["nnunet_neuro.trainers.nnUNetTrainerAddedLater"], added.stderr


def test_with_an_editable_nnunetv2(fresh, wheel, tmp_path):
    import nnunetv2

    source = tmp_path / "nnunet"
    shutil.copytree(nnunetv2.__path__[0], source / "nnunetv2", ignore=shutil.ignore_patterns("__pycache__"))
    (source / "pyproject.toml").write_text('[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
                                           '[project]\nname = "nnunetv2"\nversion = "2.8.1"\n')
    fresh.install("--editable", str(source))
    fresh.install(str(wheel))
    assert_found(fresh.run(LOOK_UP))
    where = fresh.run("import nnunetv2; print(nnunetv2.__file__)").stdout.strip()
    assert where == str(source / "nnunetv2/__init__.py")


def test_uninstall_leaves_nothing_behind(fresh, wheel):
    before = fresh.files()
    fresh.install(str(wheel))
    assert_found(fresh.run(LOOK_UP))  # runs it once, so that byte code is there too
    fresh.pip("uninstall", "--yes", "nnunet_neuro")
    assert fresh.files() == before
    assert not [path for path in fresh.site.rglob("*nnunet_neuro*")]
    gone = fresh.run(LOOK_UP)
    assert gone.stdout.splitlines() == FOUND[:1] and "Could not find requested nnunet trainer" in gone.stderr
    assert fresh.run("pass").stderr == ""


def test_a_half_deleted_plugin_does_not_break_nnunet(fresh, wheel):
    fresh.install(str(wheel))
    shutil.rmtree(fresh.site / "nnunet_neuro")
    done = fresh.run(LOOK_UP)
    assert done.stdout.splitlines() == FOUND[:1]
    assert "nnU-Net goes on without it" in done.stderr
    assert fresh.run("pass").stderr == ""


def test_target_folder_without_pth(fresh, wheel, tmp_path):
    """pip install --target: no .pth file is read there, importing the package is the fallback."""
    fresh.install("--target", str(tmp_path / "lib"), str(wheel))
    assert_found(fresh.run("import nnunet_neuro\n" + LOOK_UP, PYTHONPATH=str(tmp_path / "lib")))
