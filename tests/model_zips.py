"""Model zips as nnU-Net's export makes them, and the tools to make them wrong."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.tiny_models import tiny_model

DATASET, MODEL = "Dataset001_Tiny", "nnUNetTrainer__nnUNetPlansTiny__3d_fullres"
PREFIX = f"{DATASET}/{MODEL}"
CHECKPOINT = f"{PREFIX}/fold_0/checkpoint_final.pth"


@cache
def good_members() -> dict[str, bytes]:
    """Members of a model zip by name, with the files that nnU-Net adds beside those that predict."""
    with TemporaryDirectory() as folder:
        model = tiny_model(Path(folder) / MODEL)
        paths = [model / "plans.json", model / "dataset.json", *model.glob("fold_*/*.pth")]
        files = {path.relative_to(model).as_posix(): path.read_bytes() for path in paths}
    return {f"{PREFIX}/{name}": content for name, content in files.items()} | {
        f"{PREFIX}/dataset_fingerprint.json": b"{}", f"{PREFIX}/fold_0/progress.png": b"\x89PNG", f"{PREFIX}/fold_0/debug.json": b"{}",
        f"{PREFIX}/fold_0/validation/summary.json": b"{}"}


def write_zip(path: Path, members: dict[str, bytes] | None = None, *, change: Callable[[zipfile.ZipFile], object] | None = None,
              patch: Callable[[bytearray], object] | None = None) -> Path:
    """Write a zip.

    Args:
        path: of the zip.
        members: names and contents; None for the good ones.
        change: adds to the open zip.
        patch: changes the bytes of the closed one.
    """
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (good_members() if members is None else members).items():
            archive.writestr(name, content)
        if change is not None:
            change(archive)
    content = bytearray(stream.getvalue())
    if patch is not None:
        patch(content)
    path.write_bytes(content)
    return path
