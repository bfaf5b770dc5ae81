"""File formats that a trained network leaves in: how each is written, and what the file computes when it is read again."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# where TorchScript, ONNX and safetensors keep what a user has to know
METADATA = "nnunet_neuro"


@dataclass(frozen=True)
class ExportFormat:
    """A format.

    Attributes:
        packages: that are needed beside torch.
        write: (network, image, path, metadata) -> None; the image is (1, C, *patch).
        compute: (path, network, image) -> logits of what was read; the network is an untrained one.
    """

    packages: tuple[str, ...]
    write: Callable[[nn.Module, Tensor, Path, Mapping[str, Any]], None]
    compute: Callable[[Path, nn.Module, Tensor], Tensor]

    def require(self) -> None:
        """Stop where a package is missing.

        Raises:
            ValueError: saying what to install.
        """
        missing = [package for package in self.packages if importlib.util.find_spec(package) is None]
        if missing:
            raise ValueError(f"this format needs {' and '.join(missing)}, which is not installed; run: pip install 'nnunet_neuro[export]'")


def _write_state_dict(network: nn.Module, image: Tensor, path: Path, metadata: Mapping[str, Any]) -> None:
    torch.save(network.state_dict(), path)


def _compute_state_dict(path: Path, network: nn.Module, image: Tensor) -> Tensor:
    network.load_state_dict(torch.load(path, weights_only=True))
    return network(image)


def _write_safetensors(network: nn.Module, image: Tensor, path: Path, metadata: Mapping[str, Any]) -> None:
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().contiguous() for name, tensor in _named_once(network).items()}
    save_file(tensors, str(path), metadata={METADATA: json.dumps(metadata)})


def _compute_safetensors(path: Path, network: nn.Module, image: Tensor) -> Tensor:
    from safetensors.torch import load_file

    stored, wanted = load_file(str(path)), _named_once(network)
    if stored.keys() != wanted.keys():
        raise ValueError(f"{sorted(stored.keys() ^ wanted.keys())[0]} is in one of file and network only")
    for name, tensor in wanted.items():
        tensor.copy_(stored[name])
    return network(image)


def _named_once(network: nn.Module) -> dict[str, Tensor]:
    """Weights by the first of their names; nnU-Net's networks hold most under three, and this format allows one."""
    return dict(network.named_parameters()) | dict(network.named_buffers())


def _write_onnx(network: nn.Module, image: Tensor, path: Path, metadata: Mapping[str, Any]) -> None:
    import onnx

    # one file, by the exporter that stays; torch before 2.5 has only the other one
    newer = {"dynamo": True, "external_data": False} if "external_data" in inspect.signature(torch.onnx.export).parameters else {}
    with _quiet():
        torch.onnx.export(network, (image,), str(path), input_names=["image"], output_names=["logits"], **newer)
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {METADATA: json.dumps(metadata)})
    onnx.save(model, str(path))
    onnx.checker.check_model(str(path))


def _compute_onnx(path: Path, network: nn.Module, image: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"image": image.numpy()})[0])


def _write_torchscript(network: nn.Module, image: Tensor, path: Path, metadata: Mapping[str, Any]) -> None:
    with _quiet():
        torch.jit.save(torch.jit.trace(network, image, check_trace=False), str(path), _extra_files={METADATA: json.dumps(metadata)})


def _compute_torchscript(path: Path, network: nn.Module, image: Tensor) -> Tensor:
    with _quiet():
        return torch.jit.load(str(path), map_location="cpu")(image)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without remarks about constants of the trace and about what is deprecated."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


FORMATS = {
    "state-dict": ExportFormat((), _write_state_dict, _compute_state_dict),
    "safetensors": ExportFormat(("safetensors",), _write_safetensors, _compute_safetensors),
    "onnx": ExportFormat(("onnx", "onnxruntime", "onnxscript"), _write_onnx, _compute_onnx),
    "torchscript": ExportFormat((), _write_torchscript, _compute_torchscript),
}
