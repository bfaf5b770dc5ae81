"""`nnneuro_quickstart`: the main road on the shipped axon cubes, ending in a report."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_neuro.commands._run import one_sentence_errors

_PROGRAM = "nnneuro_quickstart"


@one_sentence_errors(_PROGRAM)
def main(argv: list[str] | None = None) -> None:
    """Parse, then run the steps; prints the report's path."""
    parser = argparse.ArgumentParser(
        _PROGRAM, description="Convert real light-sheet axon cubes, fine-tune the shipped axon model, predict and evaluate; prints every "
        "plain command.",
        epilog="Running it again continues from what is done.", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("quickstart"), help="where everything is put")
    parser.add_argument("--device", choices=("auto", "cuda", "mps", "cpu"), default="auto", help="auto takes a GPU where there is one")
    parser.add_argument("--epochs", type=int, help="for each fold; 4, or 14 from scratch, where it is not given")
    parser.add_argument("--iterations", type=int, default=20, help="iterations per epoch")
    parser.add_argument("--from-scratch", action="store_true", help="plan, and train with axial attention from random weights")
    arguments = parser.parse_args(argv)

    from nnunet_neuro.quickstart import pick_device, run_quickstart

    device = pick_device() if arguments.device == "auto" else arguments.device
    print(f"Using device: {device}", flush=True)
    report = run_quickstart(arguments.folder, device=device, epochs=arguments.epochs, iterations=arguments.iterations,
                            from_scratch=arguments.from_scratch)
    print(f"Report: {report}")
    print(f"Open it in a browser: {report.as_uri()}")
