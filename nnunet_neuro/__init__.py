"""nnU-Net plugin for neuroscience volumes."""

from pathlib import Path

try:
    from _nnunet_neuro_autoload import install
except ModuleNotFoundError:  # a checkout on the path that was never installed
    from nnunet_neuro.autoload._nnunet_neuro_autoload import install

__version__ = "0.1.0"

# A wheel carries trainers/ and dataset_converters/ inside this package. In a checkout they stand beside it, and are the same
# modules `nnunet_neuro.trainers` and `nnunet_neuro.dataset_converters` through this search path.
_checkout = Path(__file__).parents[1]
if not (Path(__file__).parent / "trainers").is_dir() and (_checkout / "trainers").is_dir():
    __path__.append(str(_checkout))

# where no .pth file is read (python -S, pip install --target) importing the package is enough
install()
