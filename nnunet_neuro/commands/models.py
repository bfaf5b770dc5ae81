"""`nnneuro_models`: trained models that can be predicted with or trained on."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from types import ModuleType

from nnunet_neuro.commands import model_commands
from nnunet_neuro.commands._run import one_sentence_errors

_PROGRAM = "nnneuro_models"


@one_sentence_errors(_PROGRAM)
def main(argv: list[str] | None = None) -> int:
    """Parse, and run the subcommand that was asked for."""
    options = _parser().parse_args(argv)
    return options.run(options)


def command_names() -> dict[str, str]:
    """Word -> module; a word that Python keeps for itself is a file with an underscore behind it, such as `import_`."""
    modules = sorted(module.name for module in pkgutil.iter_modules(model_commands.__path__))
    return {name.rstrip("_"): name for name in modules if not name.startswith("_")}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM, description="Trained models: those that ship with the project, those of others, and yours.",
        epilog=f"{_PROGRAM} COMMAND --help explains one. Paths of what was made go to the standard output.")
    words = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for word, name in command_names().items():
        module = importlib.import_module(f"{model_commands.__name__}.{name}")
        one = words.add_parser(word, help=_purpose(module), description=module.__doc__,
                               formatter_class=argparse.RawDescriptionHelpFormatter)
        module.add_arguments(one)
        one.set_defaults(run=module.run)
    return parser


def _purpose(module: ModuleType) -> str:
    return (module.__doc__ or "").strip().partition("\n")[0]
