"""Fine-tuning with a frozen encoder."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DistributedDataParallel


class FrozenEncoderMixin:
    """The encoder stays as it was loaded with -pretrained_weights; the rest is trained.

    Its parameters need no gradient and are not given to the optimizer, and it stays in evaluation mode: running statistics of its norms
    are fixed, and its dropout is off. It is frozen when the network is built; loading weights then, before, or with `--c` makes no
    difference.

    nnU-Net's encoder ends with the bottleneck. The thalamus benchmark froze its first 31 parameter tensors: encoder, bottleneck and the
    weight of the first up-convolution. `frozen_parts = ("encoder", "decoder.transpconvs.0")` is nearest to that.

    Attributes:
        frozen_parts: dotted names of modules of the network.
    """

    frozen_parts: tuple[str, ...] = ("encoder",)

    def configure_optimizers(self):
        """nnU-Net's optimizer without the frozen parameters.

        Raises:
            ValueError: the network has no part of such a name.
        """
        for part in self._frozen_modules():
            part.requires_grad_(False)
        optimizer, scheduler = super().configure_optimizers()
        for group in optimizer.param_groups:
            group["params"] = [parameter for parameter in group["params"] if parameter.requires_grad]
        self._weights_at_first = self._sum_of_frozen_weights()
        return optimizer, scheduler

    def on_train_start(self) -> None:
        """Warns where nothing was loaded."""
        super().on_train_start()
        if self.current_epoch == 0 and self._sum_of_frozen_weights() == self._weights_at_first:
            self.print_to_log_file(
                f"WARNING: {' and '.join(self.frozen_parts)} will not be trained, and no weights were loaded; give -pretrained_weights "
                f"CHECKPOINT"
            )

    def on_train_epoch_start(self) -> None:
        """Training mode for the rest."""
        super().on_train_epoch_start()
        for part in self._frozen_modules():
            part.eval()

    def _frozen_modules(self) -> list[nn.Module]:
        network = self.network.module if isinstance(self.network, DistributedDataParallel) else self.network
        network = getattr(network, "_orig_mod", network)  # torch.compile's wrapper
        modules = dict(network.named_modules())
        missing = [name for name in self.frozen_parts if name not in modules]
        if missing:
            parts = ", ".join(name for name, _ in network.named_children())
            raise ValueError(
                f"{type(self).__name__} freezes {', '.join(self.frozen_parts)}, but {type(network).__name__} has no {missing[0]}, only "
                f"{parts}; name its parts in frozen_parts"
            )
        return [modules[name] for name in self.frozen_parts]

    def _sum_of_frozen_weights(self) -> float:
        return sum(float(parameter.double().sum()) for part in self._frozen_modules() for parameter in part.parameters())
