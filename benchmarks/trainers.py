"""nnU-Net's default trainer and those of this plugin at equal budget on real data: Dice, IoU, clDice and time per epoch side by side.

    python benchmarks/trainers.py                                             # the sample data, all trainers; hours on a CPU
    python benchmarks/trainers.py --data /data/real --datasets ls_trailmap_axons em_vnc_sstem xray_mtneuro em_axondeepseg_sem \\
        mri_msd_hippocampus --folds 0 1 2 --seeds 0 1 2 --epochs 100 --iterations 250 --device cuda --planner ExperimentPlanner
    python benchmarks/trainers.py --trainers nnUNetTrainerBaseline nnUNetTrainerSkeletonRecall --epochs 20 --iterations 50 --device cpu

--data names folders that hold the datasets of `trainer_datasets.py` under the names given there. Every dataset is converted with
nnneuro_convert, planned once, and trained by nnUNetv2_train with the same plans, folds, seeds, epochs and iterations for every trainer.
The prediction of a fold's validation cases by nnU-Net is measured as nnneuro_evaluate does. nnUNetTrainerBaseline is nnU-Net's default
trainer; it is in `baseline/`, where it reads the same environment variables.

What is finished is not trained again, and what was interrupted continues: call the same line again. A training that fails is named in the
table and does not stop the others; its output is in logs/. The table goes to stdout and to table.md, all scores to scores.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from trainer_datasets import DATASETS, find_sources  # noqa: E402 - a script's folder is not a package

from nnunet_neuro.startup import plugin_classes  # noqa: E402

BASELINE = "nnUNetTrainerBaseline"
NEEDS_WEIGHTS = ("nnUNetTrainerFrozenEncoder", "nnUNetTrainerFineTune", "nnUNetTrainerFineTuneFrozenEncoder",
                 "nnUNetTrainerFineTuneSingleOutput")
PLANS = "nnUNetPlansBenchmark"
MEASURES = ("Dice", "IoU", "clDice", "clDice_tolerant")
FIRST_ID = 901


@dataclass(frozen=True)
class Training:
    """One fold of one trainer on one dataset."""

    dataset: str
    trainer: str
    fold: int
    seed: int


@dataclass(frozen=True)
class Bench:
    """Where everything is, and how long every trainer trains."""

    folder: Path
    epochs: int
    iterations: int
    val_iterations: int
    device: str
    planner: str
    parallel: int = 1

    def dataset_name(self, dataset: str) -> str:
        return f"Dataset{self.dataset_id(dataset)}_{''.join(part.capitalize() for part in dataset.split('_'))}"

    @staticmethod
    def dataset_id(dataset: str) -> int:
        return FIRST_ID + list(DATASETS).index(dataset)

    @property
    def plans(self) -> str:
        return f"{PLANS}{self.planner.removeprefix('nnUNetPlanner')}"

    def results(self, seed: int) -> Path:
        """A folder of its own for each budget, so that none is taken for another."""
        return self.folder / f"results_{self.epochs}x{self.iterations}_seed{seed}"

    def fold_folder(self, training: Training) -> Path:
        model = f"{training.trainer}__{self.plans}__{DATASETS[training.dataset].configuration}"
        return self.results(training.seed) / self.dataset_name(training.dataset) / model / f"fold_{training.fold}"

    def variables(self, seed: int) -> dict[str, str]:
        """Of the environment of a training."""
        trainers = [str(Path(__file__).parent / "baseline"), os.environ.get("nnUNet_extTrainer", "")]
        variables = {
            "nnUNet_raw": str(self.folder / "raw"), "nnUNet_preprocessed": str(self.folder / "preprocessed"),
            "nnUNet_results": str(self.results(seed)), "nnUNet_extTrainer": os.pathsep.join(filter(None, trainers)),
            "NNNEURO_EPOCHS": str(self.epochs), "NNNEURO_ITERATIONS": str(self.iterations),
            "NNNEURO_VAL_ITERATIONS": str(self.val_iterations), "NNNEURO_SEED": str(seed),
        }
        if self.device == "cpu":  # more processes than cores only wait for each other
            variables |= {name: os.environ.get(name, "1") for name in ("nnUNet_n_proc_DA", "nnUNet_def_n_proc")}
        return variables

    def environment(self, seed: int) -> dict[str, str]:
        return {**os.environ, **self.variables(seed)}


def main(argv: list[str] | None = None) -> int:
    """Convert, plan, train, measure; 1 if a training failed."""
    options = _parser().parse_args(argv)
    bench = Bench(options.folder.resolve(), options.epochs, options.iterations, options.val_iterations, options.device, options.planner,
                  options.parallel)
    sources = find_sources(options.data)
    names = options.datasets or (["sample_axons"] if not options.data else list(sources)[1:])
    for name in names:
        if name not in sources:
            raise SystemExit(f"dataset {name} is not there; found {', '.join(sources)}: name its folder with --data")
    trainers = list(dict.fromkeys([BASELINE, *(options.trainers or our_trainers())]))
    trainings = []
    for name in names:
        try:
            prepare(bench, name, sources[name])
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"{name} could not be prepared, see {error.output}") from error
        folds = [fold for fold in options.folds if fold < number_of_folds(bench, name)]
        trainings += [Training(name, trainer, fold, seed) for seed, fold, trainer in product(options.seeds, folds, trainers)]
    train_all(bench, trainings)
    failed = [training for training in trainings if not is_finished(bench.fold_folder(training))]
    scores = {training: measure(bench, training) for training in trainings if training not in failed}
    table = markdown(bench, names, trainers, scores, failed)
    (bench.folder / "table.md").write_text(table, encoding="utf-8")
    (bench.folder / "scores.json").write_text(json.dumps([{**vars(training), **found} for training, found in scores.items()], indent=1))
    print(table)
    return 1 if failed else 0


def our_trainers() -> list[str]:
    """Every trainer of the plugin that trains from nothing."""
    return [name for name, plugin in plugin_classes().items() if plugin.kind == "trainer" and name not in NEEDS_WEIGHTS]


def prepare(bench: Bench, name: str, source: Path) -> None:
    """Convert a dataset and plan it, unless that is done."""
    dataset, number = DATASETS[name], bench.dataset_id(name)
    if dataset.prepare is not None:
        source = dataset.prepare(source, bench.folder / "prepared" / name)
    full_name = bench.dataset_name(name)
    run(bench, ["nnneuro_convert", *dataset.convert_arguments(source, number, full_name.partition("_")[2])], log=f"{name}_convert")
    if not (bench.folder / "preprocessed" / full_name / f"{bench.plans}.json").is_file():
        run(bench, ["nnUNetv2_plan_and_preprocess", "-d", str(number), "-pl", bench.planner, "-overwrite_plans_name", bench.plans, "-c",
                    dataset.configuration, "-npfp", "2", "-np", "2"], log=f"{name}_plan")


def number_of_folds(bench: Bench, name: str) -> int:
    splits = bench.folder / "raw" / bench.dataset_name(name) / "splits_final.json"
    return len(json.loads(splits.read_text()))


def train_all(bench: Bench, trainings: Sequence[Training]) -> None:
    """Train and predict the folds that are not finished, or go on with them. One that fails does not stop the others."""
    tasks = [task(bench, training) for training in trainings if not is_finished(bench.fold_folder(training))]
    if tasks:
        print(f"{len(tasks)} trainings, {bench.parallel} at a time", file=sys.stderr, flush=True)
        listed = bench.folder / "tasks.json"
        listed.write_text(json.dumps(tasks, indent=1))
        program = Path(__file__).parent / "forked_training.py"
        subprocess.run([sys.executable, program, listed, str(bench.parallel)], env=bench.environment(0))


def task(bench: Bench, training: Training) -> dict:
    """A training as `forked_training.py` runs it."""
    folder = bench.fold_folder(training)
    begun = any((folder / f"checkpoint_{name}.pth").is_file() for name in ("latest", "final"))
    arguments = [str(bench.dataset_id(training.dataset)), DATASETS[training.dataset].configuration, str(training.fold),
                 "-tr", training.trainer, "-p", bench.plans, "-device", bench.device, *(["--c"] if begun else [])]
    log = f"{training.dataset}_{training.trainer}_{bench.epochs}x{bench.iterations}_fold{training.fold}_seed{training.seed}"
    return {"arguments": arguments, "environment": bench.variables(training.seed), "log": str(bench.folder / "logs" / f"{log}.txt")}


def is_finished(folder: Path) -> bool:
    return (folder / "checkpoint_final.pth").is_file() and (folder / "validation" / "summary.json").is_file()


def run(bench: Bench, command: list[str], *, log: str) -> None:
    """Run a program of this environment; its output goes to logs/.

    Raises:
        CalledProcessError: it failed; `output` is the log.
    """
    path = bench.folder / "logs" / f"{log}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    with path.open("a", encoding="utf-8") as stream:
        program = Path(sys.executable).parent / command[0]
        code = subprocess.run([program, *command[1:]], env=bench.environment(0), stdout=stream, stderr=subprocess.STDOUT).returncode
    if code:
        tail = "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
        print(tail, file=sys.stderr)
        raise subprocess.CalledProcessError(code, command, output=str(path))
    print(f"  {command[0]} took {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)


def measure(bench: Bench, training: Training) -> dict:
    """Scores of the fold's validation cases, class by class, and seconds per epoch; measured once."""
    folder = bench.fold_folder(training)
    stored = folder / "benchmark.json"
    if stored.is_file():
        return json.loads(stored.read_text())
    from nnunet_neuro.evaluate.run import evaluate_folders

    raw = bench.folder / "raw" / bench.dataset_name(training.dataset)
    evaluation = evaluate_folders(folder / "validation", raw / "labelsTr", dataset_json=raw / "dataset.json", only_predicted=True,
                                  progress=False)
    found = {
        "seconds_per_epoch": seconds_per_epoch(folder / "checkpoint_final.pth"),
        "cases": {case.pair.case: {name: {key: case.values[name][key] for key in MEASURES} for name in evaluation.names.classes}
                  for case in evaluation.cases},
    }
    stored.write_text(json.dumps(found))
    return found


def seconds_per_epoch(checkpoint: Path) -> float:
    """The median; the first epoch, with its warming-up, counts only where it is alone."""
    import torch

    logged = torch.load(checkpoint, map_location="cpu", weights_only=False)["logging"]
    seconds = [end - start for start, end in zip(logged["epoch_start_timestamps"], logged["epoch_end_timestamps"])]
    return statistics.median(seconds[1:] or seconds)


def markdown(bench: Bench, names: Sequence[str], trainers: Sequence[str], scores: dict[Training, dict],
             failed: Sequence[Training]) -> str:
    """A table per dataset: the mean over classes of the mean over cases of all folds, then mean and deviation over the seeds."""
    lines = [f"{date.today()}, {hardware(bench.device)}. {bench.epochs} epochs of {bench.iterations} iterations, "
             f"{bench.parallel} training{'s' * (bench.parallel > 1)} at a time, plans of {bench.planner}. "
             "Mean over cases, then classes; ± is the standard deviation over seeds."]
    for name in names:
        of_dataset = {training: found for training, found in scores.items() if training.dataset == name}
        cases = {case for found in of_dataset.values() for case in found["cases"]}
        folds = sorted({training.fold for training in of_dataset})
        lines += ["", f"**{name}**, {DATASETS[name].configuration}; folds: {', '.join(map(str, folds))}; validation cases: "
                      f"{len(cases)}. Folds hold apart: {DATASETS[name].folds_apart}.", "",
                  f"| trainer | {' | '.join(measure.replace('_tolerant', ' within 2 voxels') for measure in MEASURES)} | s per epoch |",
                  "|---|" + "---|" * (len(MEASURES) + 1)]
        for trainer in trainers:
            if any(training.dataset == name and training.trainer == trainer for training in failed):
                lines.append(f"| {trainer} | failed" + " |" * (len(MEASURES) + 1))
                continue
            mine = {training: found for training, found in of_dataset.items() if training.trainer == trainer}
            cells = [spread(per_seed(mine, key)) for key in MEASURES]
            seconds = statistics.median(found["seconds_per_epoch"] for found in mine.values()) if mine else float("nan")
            lines.append(f"| {trainer} | {' | '.join(cells)} | {seconds:.1f} |")
    return "\n".join(lines) + "\n"


def per_seed(mine: dict[Training, dict], key: str) -> list[float]:
    """One score for each seed: the mean over classes of the mean over the cases of all folds."""
    return [mean_over_classes([case for training, found in mine.items() if training.seed == seed for case in found["cases"].values()], key)
            for seed in sorted({training.seed for training in mine})]


def mean_over_classes(cases: Iterable[dict[str, dict[str, float]]], key: str) -> float:
    by_class: dict[str, list[float]] = {}
    for case in cases:
        for name, values in case.items():
            if values[key] == values[key]:  # NaN is undefined: neither mask has the class
                by_class.setdefault(name, []).append(values[key])
    return statistics.fmean(statistics.fmean(values) for values in by_class.values()) if by_class else float("nan")


def spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{deviation}"


def hardware(device: str) -> str:
    import torch

    if device == "cuda":
        name = torch.cuda.get_device_name()
    else:
        name = f"{platform.machine()} CPU, {os.cpu_count()} cores"
    return f"{name}, torch {torch.__version__}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", default=[], metavar="FOLDER", help="where real data are (default: the sample data)")
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, help="default: all that are in --data, else the sample data")
    parser.add_argument("--trainers", nargs="+", metavar="NAME", help=f"beside {BASELINE} (default: all of this plugin)")
    parser.add_argument("--folds", type=int, nargs="+", default=[0], help="default: 0; what a dataset does not have is left out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="default: 0; several show how much is noise")
    parser.add_argument("--epochs", type=int, default=50, help="default: %(default)s")
    parser.add_argument("--iterations", type=int, default=50, help="of an epoch (default: %(default)s)")
    parser.add_argument("--val-iterations", type=int, default=4, help="of an epoch (default: %(default)s)")
    parser.add_argument("--device", choices=("cuda", "cpu", "mps"), default="cuda", help="default: %(default)s")
    parser.add_argument("--parallel", type=int, default=1, help="trainings at a time; an epoch takes longer then (default: 1)")
    parser.add_argument("--planner", default="nnUNetPlannerSmall", help="default: %(default)s")
    parser.add_argument("--folder", type=Path, default=Path("trainers_benchmark"), help="where everything is put (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
