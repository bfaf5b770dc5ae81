"""Real datasets for `trainers.py`: how nnneuro_convert makes each, and which tissue its folds hold apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

SAMPLE = Path(__file__).parents[1] / "nnunet_neuro" / "sample_data" / "axons"
_PAIR = ("--image", "{source}/images/{{case}}.tif", "--label", "{source}/labels/{{case}}.tif")


@dataclass(frozen=True)
class RealDataset:
    """A dataset as `trainers.py` trains it.

    Attributes:
        folder: its place below a folder that the user names.
        command: converter and options of nnneuro_convert; `{source}` is the folder.
        configuration: of nnU-Net.
        folds_apart: what two folds do not share, for the reader of the table.
        prepare: makes the source of the conversion from the folder first, in a working folder; None takes it as it is.
    """

    folder: str
    command: tuple[str, ...]
    configuration: str
    folds_apart: str
    prepare: Callable[[Path, Path], Path] | None = None

    def convert_arguments(self, source: Path, dataset_id: int, name: str) -> list[str]:
        """Arguments of nnneuro_convert."""
        return [*(word.format(source=source) for word in self.command), "-d", str(dataset_id), "--name", name]


def halves_along_z(folder: Path, working: Path) -> Path:
    """The labelled X-ray cube as two volumes with ten planes left out between them; its longest axis has all labels at one end."""
    import tifffile

    for kind, (name, planes) in product(("images", "labels"), (("lower", slice(0, 60)), ("upper", slice(70, None)))):
        half = working / kind / f"{name}.tif"
        if not half.is_file():  # labelled are planes 20 and 50, 80 and 110
            half.parent.mkdir(parents=True, exist_ok=True)
            (source,) = (folder / kind).glob("*.tif")
            tifffile.imwrite(half.with_suffix(".part"), tifffile.imread(source)[planes], compression="zlib")
            half.with_suffix(".part").rename(half)
    return working


def halves_along_x(folder: Path, working: Path) -> Path:
    """The held-out slab of light-sheet axons as two volumes of the shape of the training cubes, with eight voxels left out between them."""
    import tifffile

    slab = folder / "trailmap" / "val"
    for kind, source in (("images", slab / "volumes" / "volume-005.tiff"), ("labels", slab / "Fine-label" / "label-005.tiff")):
        (working / kind).mkdir(parents=True, exist_ok=True)
        for name, columns in (("left", slice(0, 56)), ("right", slice(64, None))):
            tifffile.imwrite(working / kind / f"{name}.tif", tifffile.imread(source)[:, :, columns])
    return working


DATASETS = {
    "sample_axons": RealDataset(
        "", ("axon", "trailmap={source}/trailmap", "dlmbmap={source}/dlmbmap", "--spacing", "3,3.25,3.25"), "3d_fullres",
        "cubes; those of one brain are neighbours"),
    # not the crops beside it, which are parts of this volume
    "ls_trailmap_axons": RealDataset(
        "ls_trailmap_axons", ("volumes", "--image", "{source}/images/train_{{case}}.tif", "--label", "{source}/labels/train_{{case}}.tif",
                              "--labels", "1=axon,2=ignore,3=ignore", "--spacing", "3,3.25,3.25", "--groups-per-volume", "3", "--gap", "8"),
        "3d_fullres", "thirds of one volume, 8 voxels between them"),
    "ls_dlmbmap_axons": RealDataset(
        "ls_dlmbmap_axons", ("volumes", *_PAIR, "--labels", "1=axon", "--spacing", "3,1.6,1.6", "--groups-per-volume", "3", "--gap", "12"),
        "3d_fullres", "thirds of one volume, 12 voxels between them"),
    "em_vnc_sstem": RealDataset(
        "em_vnc_sstem", ("volumes", *_PAIR, "--labels", "1=membrane,2=mitochondrion,3=synapse", "--spacing", "0.05,0.0046,0.0046",
                         "--groups-per-volume", "4", "--gap", "32"), "2d", "quarters of one stack, 32 pixels between them"),
    "xray_mtneuro": RealDataset(
        "xray_mtneuro/sparse_3d", ("volumes", *_PAIR, "--labels", "1=vessel,2=cell,3=axon,4=ignore", "--spacing", "1.17,1.17,1.17"),
        "3d_fullres", "halves of one cube, 10 planes between them", halves_along_z),
    "em_axondeepseg_sem": RealDataset(
        "em_axondeepseg_sem", ("volumes", "--image", "{source}/images/{{group}}_sample-{{case}}_SEM.png", "--label",
                               "{source}/labels/{{group}}_sample-{{case}}_SEM.png", "--labels", "1=myelin,2=axon"), "2d", "animals"),
    "mri_msd_hippocampus": RealDataset(
        "mri_msd_hippocampus", ("thalamus", "{source}", "--layout", "T1=imagesTr/{{subject}}.nii.gz", "--mask",
                                "labelsTr/{{subject}}.nii.gz", "--labels", "1=anterior,2=posterior"), "3d_fullres", "subjects"),
    # what the shipped models ls_axons and em_axon_myelin have not seen: a slab, and an animal
    "held_out_axons": RealDataset(
        "", ("volumes", "--image", "{source}/images/{{case}}.tif", "--label", "{source}/labels/{{case}}.tif",
             "--labels", "0=ignore,1=background,2=axon,4=ignore", "--spacing", "3,3.25,3.25"),
        "3d_fullres", "halves of one volume, 8 voxels between them", halves_along_x),
    "held_out_sem": RealDataset(
        "em_axondeepseg_sem", ("volumes", "--image", "{source}/images/sub-rat3_sample-{{case}}_SEM.png",
                               "--label", "{source}/labels/sub-rat3_sample-{{case}}_SEM.png", "--labels", "1=myelin,2=axon"),
        "2d", "images of one animal"),
}


def find_sources(folders: list[Path]) -> dict[str, Path]:
    """The datasets that are there: the sample data always, others below the folders or as one of them.

    Raises:
        FileNotFoundError: a folder is missing or holds none.
    """
    sources = {name: SAMPLE for name, dataset in DATASETS.items() if not dataset.folder}
    others = ", ".join(name for name in DATASETS if name not in sources)
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}; expected one with any of {others} in it")
        found = {name: place for name, dataset in DATASETS.items() if dataset.folder and (place := _place(folder, dataset)).is_dir()}
        if not found:
            raise FileNotFoundError(f"{folder} holds none of the known datasets; expected any of {others} in it")
        sources |= found
    return sources


def _place(folder: Path, dataset: RealDataset) -> Path:
    name = Path(dataset.folder).parts[0]
    inside = Path(dataset.folder).relative_to(name)  # "." or a folder of the dataset
    return folder / inside if folder.name == name else folder / name / inside
