"""How a volume is predicted; apart from the device, nothing here says where or by how many processes."""

from __future__ import annotations

from dataclasses import dataclass

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class PredictOptions:
    """Choices of a prediction; the defaults give the labels of `nnUNetv2_predict`.

    Attributes:
        step: largest distance of two windows as a share of the patch, above 0 and at most 1; nnU-Net's own default is 0.5.
        mirroring: average over mirrored windows along the axes that the model was trained for.
        batch: windows that go through the network at once; more than 1 may change the last bits.
        background: windows whose raw numbers are all at or below this, in every channel, are not computed and give background; None
            computes all of them.
        compile: let `torch.compile` make the network faster, which takes a minute or two first.
        precision: of the network: "auto" is nnU-Net's own (16 bits on CUDA, 32 elsewhere), or one of float32, bfloat16 and float16.
        device: as torch names it.
        probabilities: also give the probability of each class.
        entropy: also give the entropy of the class probabilities.
        disagreement: also give the share of the folds that vote for another label than all of them together.
    """

    step: float = 0.5
    mirroring: bool = True
    batch: int = 1
    background: float | None = None
    compile: bool = False
    precision: str = "auto"
    device: str = "cpu"
    probabilities: bool = False
    entropy: bool = False
    disagreement: bool = False

    def __post_init__(self):
        if not 0 < self.step <= 1:
            raise ValueError(f"a step of {self.step} was asked for; expected more than 0 and at most 1, such as 0.5")
        if self.batch < 1:
            raise ValueError(f"a batch of {self.batch} windows was asked for; expected 1 or more")
        if self.precision not in PRECISIONS:
            raise ValueError(f"a precision of {self.precision!r} was asked for; expected one of {', '.join(PRECISIONS)}")
