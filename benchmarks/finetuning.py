"""Fine-tuning and training from scratch at equal data, plan, seed and iterations: Dice after 5, 10, 20, 50 and 100 % of the iterations.

    python benchmarks/finetuning.py --data /data/real --source ls_trailmap_axons --target ls_dlmbmap_axons --epochs 100 --iterations 50 \\
        --folds 0 1 2 --seeds 0 1 2 --device cuda --parallel 8
    python benchmarks/finetuning.py --data /data/real --source ls_dlmbmap_axons --target ls_trailmap_axons ...     # the other way round
    python benchmarks/finetuning.py --target held_out_axons --model ls_axons --epochs 20 --iterations 10 --val-iterations 2 \\
        --device cpu --parallel 2                                              # from a shipped model, on what it has not seen

A network is trained on all cases of the source dataset, or --model names one that is. Its plans are transferred to the target dataset as
`nnneuro_models finetune` does, and both arms train with these plans on the same folds: nnU-Net's default trainer from random weights
(nnUNetTrainerBaseline), and each of --trainers from the network's weights. Every share of the iterations is a training of its own with the
whole schedule of the learning rate, which is what a user gets who trains that long; none ends early. The prediction of a fold's validation
cases is measured as `trainers.py` does.

What is finished is not trained again: call the same line again. The table goes to stdout and to finetuning.md, the scores to
finetuning.json, the curves to finetuning.png.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import product
from pathlib import Path

from nnunet_neuro.options import parse_spacing

sys.path.insert(0, str(Path(__file__).parent))
from trainer_datasets import DATASETS, find_sources  # noqa: E402 - a script's folder is not a package

from trainers import (  # noqa: E402, TID251 - the script beside this one, not the leaf folder
    BASELINE,
    PLANS,
    Bench,
    Training,
    hardware,
    is_finished,
    measure,
    number_of_folds,
    per_seed,
    prepare,
    run,
    spread,
    task,
    train_all,
)

TUNING = "nnUNetTrainerFineTune"
SHARES = (5, 10, 20, 50, 100)
SCRATCH = "from scratch"


@dataclass(frozen=True)
class TargetBench(Bench):
    """A bench whose plans were transferred.

    Attributes:
        plans_name: of these.
        weights: the fitted checkpoint.
        heads: whether that has heads to carry over.
    """

    plans_name: str = ""
    weights: Path = Path()
    heads: bool = False

    @property
    def plans(self) -> str:
        return self.plans_name

    def variables(self, seed: int) -> dict[str, str]:
        return {**super().variables(seed), "NNNEURO_PATIENCE": "0"}


def main(argv: list[str] | None = None) -> int:
    """Train the source, transfer, train both arms at every share, measure; 1 if a training failed."""
    options = _parser().parse_args(argv)
    bench = Bench(options.folder.resolve(), options.epochs, options.iterations, options.val_iterations, options.device, options.planner,
                  options.parallel)
    sources = checked_sources(options)
    lengths = epochs_of_shares(options.shares, options.epochs)
    try:
        model = options.model or str(train_source(replace(bench, epochs=options.source_epochs or options.epochs), options.source,
                                                  sources[options.source], seed=options.seeds[0]))
        convert(bench, options.target, sources[options.target])
        target = transfer(bench, model, options.target, spacing=options.spacing, seed=options.seeds[0])
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"the datasets could not be prepared, see {error.output}") from error
    folds = [fold for fold in options.folds if fold < number_of_folds(bench, options.target)]
    trainings = [Training(options.target, trainer, fold, seed)
                 for seed, fold, trainer in product(options.seeds, folds, [BASELINE, *options.trainers])]
    benches = {share: replace(target, epochs=epochs) for share, epochs in lengths.items()}
    train(list(benches.values()), trainings)
    finished = {share: [training for training in trainings if is_finished(one.fold_folder(training))] for share, one in benches.items()}
    scores = {share: {training: measure(one, training) for training in finished[share]} for share, one in benches.items()}
    curves = {arm: [per_seed({training: found for training, found in scores[share].items() if training.trainer == trainer}, "Dice")
                    for share in lengths] for arm, trainer in arms(options.trainers).items()}
    table = markdown(target, model, options.target, lengths, curves, folds)
    (bench.folder / "finetuning.md").write_text(table, encoding="utf-8")
    measured = {"shares": list(lengths), "epochs": list(lengths.values()), **curves}
    (bench.folder / "finetuning.json").write_text(json.dumps(measured, indent=1))
    draw(bench.folder / "finetuning.png", list(lengths), curves, options.target)
    print(table)
    return 1 if any(len(found) < len(trainings) for found in finished.values()) else 0


def checked_sources(options: argparse.Namespace) -> dict[str, Path]:
    """Where the datasets are.

    Raises:
        SystemExit: one is missing, or there is nothing to fine-tune.
    """
    if not options.model and options.source in (None, options.target):
        raise SystemExit("no model to fine-tune; give --source another dataset than --target, or --model")
    sources = find_sources(options.data)
    for name in (options.target, *([] if options.model else [options.source])):
        if name not in sources:
            raise SystemExit(f"dataset {name} is not there; found {', '.join(sources)}: name its folder with --data")
    return sources


def epochs_of_shares(shares: Sequence[int], epochs: int) -> dict[int, int]:
    """Share in percent -> epochs.

    Raises:
        SystemExit: two shares would have the same number, or one would have none.
    """
    lengths = {share: round(epochs * share / 100) for share in sorted(set(shares))}
    if 0 in lengths.values() or len(set(lengths.values())) < len(lengths):
        raise SystemExit(f"{epochs} epochs cannot be divided into {', '.join(f'{share} %' for share in lengths)}; give more --epochs of "
                         "fewer --iterations")
    return lengths


def arms(trainers: Sequence[str]) -> dict[str, str]:
    """What the table calls each trainer."""
    return {SCRATCH: BASELINE, **{f"fine-tuned, {trainer.removeprefix('nnUNetTrainer')}": trainer for trainer in trainers}}


def convert(bench: Bench, name: str, source: Path) -> None:
    """Convert a dataset without planning it."""
    dataset, number = DATASETS[name], bench.dataset_id(name)
    if dataset.prepare is not None:
        source = dataset.prepare(source, bench.folder / "prepared" / name)
    run(bench, ["nnneuro_convert", *dataset.convert_arguments(source, number, bench.dataset_name(name).partition("_")[2])],
        log=f"{name}_convert")


def train_source(bench: Bench, name: str, source: Path, *, seed: int) -> Path:
    """The folder of a network that was trained on all cases of a dataset."""
    prepare(bench, name, source)
    training = Training(name, BASELINE, "all", seed)
    if not is_finished(bench.fold_folder(training)):
        train_all(bench, [training])
    if not is_finished(bench.fold_folder(training)):
        raise SystemExit(f"the training on {name} failed, see {task(bench, training)['log']}")
    return bench.fold_folder(training).parent


def transfer(bench: Bench, model: str, name: str, *, spacing: tuple[float, ...] | None, seed: int) -> TargetBench:
    """Plans, weights and preprocessed images of the target, as nnneuro_models finetune makes them."""
    from nnunet_neuro.models.finetune import FineTuning, prepare_finetuning
    from nnunet_neuro.models.pretrained import load_pretrained

    os.environ.update(bench.variables(seed))
    pretrained = load_pretrained(model)
    wanted = FineTuning(bench.dataset_name(name), bench.device, DATASETS[name].configuration, trainer=TUNING, spacing=spacing,
                        plans_name=f"{PLANS}From{pretrained.name}{pretrained.sha256[:8]}")  # of another budget it is another one
    made = prepare_finetuning(pretrained, wanted, say=lambda line: print(line, file=sys.stderr, flush=True))
    return TargetBench(**vars(bench), plans_name=made.plans_name, weights=made.weights, heads=made.heads)


def train(benches: Sequence[TargetBench], trainings: Sequence[Training]) -> None:
    """Train what is not finished, the longest first. One that fails does not stop the others."""
    tasks = [tuned_task(bench, training) for bench in sorted(benches, key=lambda bench: -bench.epochs) for training in trainings
             if not is_finished(bench.fold_folder(training))]
    if tasks:
        bench = benches[0]
        print(f"{len(tasks)} trainings, {bench.parallel} at a time", file=sys.stderr, flush=True)
        listed = bench.folder / "finetuning_tasks.json"
        listed.write_text(json.dumps(tasks, indent=1))
        program = Path(__file__).parent / "forked_training.py"
        subprocess.run([sys.executable, program, listed, str(bench.parallel)], env=bench.environment(0))


def tuned_task(bench: TargetBench, training: Training) -> dict:
    """A training as `forked_training.py` runs it; the fine-tuned arms begin with the fitted weights."""
    from nnunet_neuro.training.carried_heads import HEADS

    made = task(bench, training)
    if training.trainer != BASELINE and "--c" not in made["arguments"]:
        made["arguments"] += ["-pretrained_weights", str(bench.weights)]
        made["environment"] |= {HEADS: str(bench.weights)} if bench.heads else {}
    return made


def markdown(bench: TargetBench, model: str, target: str, lengths: dict[int, int], curves: dict[str, list[list[float]]],
             folds: Sequence[int]) -> str:
    """Dice at every share, and at which one fine-tuning reaches what training from scratch has at the end."""
    lines = [f"{date.today()}, {hardware(bench.device)}. {target}, from {model}; {bench.iterations} iterations per epoch, folds "
             f"{', '.join(map(str, folds))}, {len(curves[SCRATCH][-1])} seeds, plans {bench.plans}. Dice of the validation cases, mean "
             "over cases, then classes; ± is the standard deviation over seeds.", "",
             f"| iterations | epochs | {' | '.join(curves)} |", "|---|---|" + "---|" * len(curves)]
    lines += [f"| {share} % | {epochs} | {' | '.join(spread(curve[index]) for curve in curves.values())} |"
              for index, (share, epochs) in enumerate(lengths.items())]
    goal = mean(curves[SCRATCH][-1])
    for arm, curve in curves.items():
        if arm != SCRATCH:
            share = next((share for share, values in zip(lengths, curve) if values and mean(values) >= goal), None)
            lines += ["", f"{arm}: {'never reaches' if share is None else f'with {share} % of the iterations reaches'} the Dice of "
                          f"training from scratch with {max(lengths)} % ({goal:.3f})."]
    return "\n".join(lines) + "\n"


def mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else float("nan")


def draw(path: Path, shares: Sequence[int], curves: dict[str, list[list[float]]], target: str) -> None:
    """The curves, with the deviation over seeds as bars."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for (arm, curve), marker in zip(curves.items(), "os^Dv"):
        bars = [statistics.stdev(values) if len(values) > 1 else 0 for values in curve]
        axes.errorbar(shares, [mean(values) for values in curve], yerr=bars, label=arm, marker=marker, capsize=3)
    axes.axhline(mean(curves[SCRATCH][-1]), color="grey", linestyle=":", label=f"{SCRATCH}, {max(shares)} %")
    axes.set_xscale("log")
    axes.set_xticks(shares, [f"{share} %" for share in shares])
    axes.minorticks_off()
    axes.set(xlabel="iterations", ylabel="Dice of the validation cases", title=target)
    axes.legend()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", default=[], metavar="FOLDER", help="where real data are")
    parser.add_argument("--source", choices=DATASETS, help="dataset that the network is trained on first")
    parser.add_argument("--model", metavar="MODEL", help="in place of --source: what nnneuro_models finetune takes")
    parser.add_argument("--target", choices=DATASETS, required=True, help="dataset that both arms are trained on")
    parser.add_argument("--spacing", type=parse_spacing, metavar="Z,Y,X",
                        help="of both arms, in place of the network's; that of the target's images keeps their voxels")
    parser.add_argument("--trainers", nargs="+", metavar="NAME", default=[TUNING], help=f"for fine-tuning (default: {TUNING})")
    parser.add_argument("--shares", type=int, nargs="+", default=list(SHARES), metavar="PERCENT", help="default: 5 10 20 50 100")
    parser.add_argument("--folds", type=int, nargs="+", default=[0], help="of the target (default: 0)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="default: 0; several show how much is noise")
    parser.add_argument("--epochs", type=int, default=100, help="that are 100 %% (default: %(default)s)")
    parser.add_argument("--source-epochs", type=int, help="of the training on --source (default: as --epochs)")
    parser.add_argument("--iterations", type=int, default=50, help="of an epoch (default: %(default)s)")
    parser.add_argument("--val-iterations", type=int, default=4, help="of an epoch (default: %(default)s)")
    parser.add_argument("--device", choices=("cuda", "cpu", "mps"), default="cuda", help="default: %(default)s")
    parser.add_argument("--parallel", type=int, default=1, help="trainings at a time (default: 1)")
    parser.add_argument("--planner", default="nnUNetPlannerSmall", help="of the source (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("finetuning_benchmark"), help="where everything is put (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
