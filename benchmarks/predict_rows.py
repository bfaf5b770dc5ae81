"""What a measure gives: rows of the table of `predict.py`, and the sizes that it is made at."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from predict_models import BenchModel, GeneratedVolume, ModelPlan, make_model, write_tiff
from predict_process import Runner

NOT_THERE = "–"
# memory for one process where that is not what is measured
ROOM = "4G"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        measure: its number.
        what: is measured.
        stock: nnU-Net's value; "–" where it has nothing of the kind.
        ours: our value.
        goal: what is asked for; empty for a line that only explains.
        met: whether it is reached; None for a line that only explains.
    """

    measure: int
    what: str
    stock: str
    ours: str
    goal: str = ""
    met: bool | None = None

    def markdown(self) -> str:
        verdict = {True: "yes", False: "**no**", None: ""}[self.met]
        return f"| {self.measure} | {self.what} | {self.stock} | {self.ours} | {self.goal} | {verdict} |"

    def json(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Sizes:
    """How large and how often; edges of cubes are in voxels.

    Attributes:
        exact_cubes: of measure 1, beside its small shapes.
        exact_shapes, exact_models: how many of the small shapes and of the models that predict them.
        memory_cubes: the smaller and the larger one of measure 2.
        cost_cube, cost_features: of measure 3.
        share_cube, share_features: of measure 4.
        decode_cube: of measure 5; one with few chunks counts those that the search for an empty margin reads for more.
        skip_cube, skip_features: of measure 6.
        workers_shape: of measure 7.
        repeats: of measures 3 and 7, alternating.
        kills, pairs: of measure 8.
        gigavoxel_blocks: of measure 9; so many of the blocks of the 64 gigavoxels are predicted, or all of them for 0.
        train_steps: of the network of measures 3 and 6.
    """

    exact_cubes: tuple[int, ...] = (128, 192, 256)
    exact_shapes: int = 12
    exact_models: int = 7
    memory_cubes: tuple[int, int] = (256, 512)
    cost_cube: int = 192
    cost_features: int = 16
    share_cube: int = 128
    share_features: int = 32
    decode_cube: int = 256
    skip_cube: int = 192
    skip_features: int = 16
    workers_shape: tuple[int, int, int] = (1024, 64, 64)
    repeats: int = 2
    kills: int = 50
    pairs: int = 20
    gigavoxel_blocks: int = 3
    train_steps: int = 40


QUICK = Sizes(exact_cubes=(96,), exact_shapes=4, exact_models=2, memory_cubes=(128, 256), cost_cube=96, cost_features=8, share_cube=96,
              share_features=16, decode_cube=192, skip_cube=128, skip_features=8, workers_shape=(128, 32, 32), repeats=1, kills=4, pairs=2,
              gigavoxel_blocks=1, train_steps=15)
DEFAULT = Sizes()
FULL = Sizes(cost_cube=256, cost_features=32, share_cube=192, decode_cube=512, skip_features=32, workers_shape=(1024, 128, 128), repeats=3,
             gigavoxel_blocks=0, train_steps=200)


@dataclass
class Bench:
    """What all measures share.

    Attributes:
        folder: for everything that is made.
        sizes: of the measures.
        runner: runs the programs.
        memory: that our program is given for measures 1, 2 and 8.
        gpu_rate: voxels of windows per second that a GPU is known to pass through the network, and where that is known from.
        seed: of what is drawn at random.
    """

    folder: Path
    sizes: Sizes
    runner: Runner
    memory: str
    gpu_rate: tuple[float, str] | None = None
    seed: int = 0
    _clean: int = field(default=0, repr=False)

    def model(self, number: int, plan: ModelPlan, train_steps: int = 0) -> BenchModel:
        """Made once."""
        return make_model(self.folder / "results", number, plan, train_steps=train_steps)

    def image(self, edge: int) -> Path:
        """The folder of a cube of blobs, made once."""
        folder = self.folder / f"image_{edge}"
        if not folder.is_dir():
            write_tiff(folder, "cube", [GeneratedVolume((edge,) * 3)])
        return folder

    def fresh(self, name: str) -> Path:
        """A path for an output that nothing is at."""
        self._clean += 1
        return self.folder / "outputs" / f"{self._clean}_{name}"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def gigabytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB"


def shape_text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def parts_text(report: dict, *, least: float = 0.005) -> str:
    """Where the time of a clocked run went, largest part first."""
    total = report["seconds"]
    inner = {name: part["seconds"] for name, part in report["parts"].items() if name != "blocks" and part["seconds"] >= least * total}
    listed = sorted(inner.items(), key=_seconds, reverse=True)
    return ", ".join(f"{name} {percent(seconds / total)}" for name, seconds in listed)


def _seconds(item: tuple[str, float]) -> float:
    return item[1]
