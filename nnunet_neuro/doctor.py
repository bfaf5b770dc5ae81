"""What `nnneuro_doctor` finds out about an installation."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nnunet_neuro.raw_dataset import NNUNET_FOLDERS
from nnunet_neuro.startup import PluginClass, plugin_classes

PACKAGES = ("nnunet_neuro", "nnunetv2", "torch", "torchvision", "timm", "dynamic_network_architectures", "batchgenerators",
            "batchgeneratorsv2", "numpy", "SimpleITK", "tifffile", "intern")  # fmt: skip
# extra -> the package that it installs, and what needs it
EXTRAS = {
    "smp": ("segmentation-models-pytorch", "nnUNetTrainerTimmUNet and nnneuro_plans"),
    "monai": ("monai", "nnUNetTrainerVNet and nnUNetTrainerHighResNet"),
    "precomputed": ("tensorstore", "N5 and neuroglancer precomputed volumes"),
    "cluster": ("dask", "nnneuro_predict --scheduler"),
    "export": ("onnx", "nnneuro_models export --format onnx and safetensors"),
    "view": ("neuroglancer", "nnneuro_view"),
}


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        section: heading it stands under.
        name: what was looked at.
        state: what was found.
        fine: False if something the user needs does not work.
    """

    section: str
    name: str
    state: str
    fine: bool = True


def examine() -> list[Finding]:
    """Look at versions, extras, torch, nnU-Net's folders, the start-up hook and every trainer and planner."""
    return [*_versions(), *_extras(), *_torch(), *_folders(), *_hook(), *_classes()]


def _versions() -> list[Finding]:
    findings = [Finding("Versions", "python", f"{platform.python_version()} ({sys.executable})")]
    for package in PACKAGES:
        try:
            findings.append(Finding("Versions", package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            findings.append(Finding("Versions", package, "not installed", fine=False))
    return findings


def _extras() -> list[Finding]:
    findings = []
    for extra, (package, use) in EXTRAS.items():
        try:
            state = f"{package} {importlib.metadata.version(package)}, for {use}"
        except importlib.metadata.PackageNotFoundError:
            # nothing to mend: whoever uses none of this needs no extra
            state = f"not installed; only {use} need it: pip install 'nnunet_neuro[{extra}]'"
        findings.append(Finding("Extras", extra, state))
    return findings


def _torch() -> list[Finding]:
    section = "PyTorch"

    def arithmetic() -> str:
        import torch

        value = float((torch.ones(8, 8) @ torch.ones(8, 8)).sum())
        if value != 512:
            raise RuntimeError(f"a matrix product gave {value} instead of 512")
        return f"works, {torch.get_num_threads()} threads"

    def vision() -> str:
        import torch
        import torchvision

        torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
        return "works, compiled operators too"

    def gpu() -> str:
        import torch

        if torch.cuda.is_available():
            float(torch.ones(8, 8, device="cuda").sum())
            names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
            return f"works: {', '.join(names)} (CUDA {torch.version.cuda})"
        if torch.backends.mps.is_available():
            return "works: Apple MPS (give nnU-Net -device mps)"
        return "none found; give nnU-Net -device cpu"

    return [_try(section, "torch", arithmetic), _try(section, "torchvision", vision), _try(section, "GPU", gpu)]


def _folders() -> list[Finding]:
    findings = []
    for name in NNUNET_FOLDERS:
        value = os.environ.get(name)
        if not value:
            findings.append(Finding("nnU-Net's folders", name, f"not set; export {name}=FOLDER", fine=False))
        else:
            state = "" if Path(value).is_dir() else " (does not exist yet)"
            findings.append(Finding("nnU-Net's folders", name, value + state))
    return findings


def _hook() -> list[Finding]:
    section = "Start-up hook"
    if os.environ.get("NNNEURO_AUTOLOAD") == "0":
        state = "switched off by NNNEURO_AUTOLOAD=0; nnU-Net sees nnunet_neuro only through nnUNet_extTrainer"
        return [Finding(section, "state", state, fine=False)]

    def in_fresh_interpreter() -> str:
        # this process imported nnunet_neuro, which installs the hook as well; only a fresh one shows what .pth does
        import subprocess

        code = ("from nnunetv2.utilities.find_class_by_name import recursive_find_python_class as f; "
                "raise SystemExit(0 if getattr(f, 'nnunet_neuro', False) else 3)")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else
                               "a fresh interpreter does not load it: reinstall nnunet_neuro, or import it before nnU-Net")
        return "loaded by every interpreter of this environment"

    return [_try(section, "state", in_fresh_interpreter)]


def _classes() -> list[Finding]:
    titles = {"trainer": "Trainers (-tr)", "planner": "Planners (-pl)"}
    return [_try(titles[plugin.kind], plugin.name, lambda plugin=plugin: _seen_by_nnunet(plugin))
            for plugin in sorted(plugin_classes().values(), key=lambda plugin: (plugin.kind != "trainer", plugin.name))]


def _seen_by_nnunet(plugin: PluginClass) -> str:
    import nnunetv2

    if plugin.kind == "trainer":
        from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

        found = recursive_find_trainer_class_by_name(plugin.name)
    else:
        from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

        folder = str(Path(nnunetv2.__path__[0]) / "experiment_planning")
        found = recursive_find_python_class(folder, plugin.name, "nnunetv2.experiment_planning")
    if found is None:
        raise RuntimeError("nnU-Net does not find it")
    return f"seen by nnU-Net. {plugin.purpose}"


def _try(section: str, name: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(section, name, look())
    except Exception as error:  # the doctor reports whatever is broken and goes on
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        return Finding(section, name, f"does not work: {type(error).__name__}: {reason}", fine=False)
