"""`nnneuro_plans`: plans for an image encoder of timm and a decoder."""

from __future__ import annotations

import argparse
import sys

from nnunet_neuro.commands._run import one_sentence_errors


@one_sentence_errors("nnneuro_plans")
def main(argv: list[str] | None = None) -> int:
    """Write the plans file and say what to run next."""
    options = _parser().parse_args(argv)

    from nnunet_neuro.networks.timm_plans import write_timm_plans

    try:
        path = write_timm_plans(
            options.dataset,
            encoder=options.encoder,
            decoder=options.decoder,
            encoder_weights=options.weights,
            source=options.plans,
            name=options.name,
        )
    except ModuleNotFoundError as error:  # a sentence that says what to install
        raise ValueError(str(error)) from error
    print(f"train with: nnUNetv2_train {options.dataset} 2d FOLD -tr nnUNetTrainerTimmUNet -p {path.stem}", file=sys.stderr)
    print(path)
    return 0


def _parser() -> argparse.ArgumentParser:
    from nnunet_neuro.networks.timm_unet import DECODERS, DEFAULT_DECODER, DEFAULT_ENCODER

    parser = argparse.ArgumentParser(
        prog="nnneuro_plans",
        description="Write plans for nnUNetTrainerTimmUNet with an encoder and a decoder of your choice, beside plans that nnU-Net made. "
        "Patches, batches and preprocessed data stay the same; give the name of the new plans to every command of nnU-Net with -p.",
    )
    parser.add_argument("dataset", metavar="DATASET", help="id or name of a dataset that is planned and preprocessed")
    parser.add_argument("--encoder", default=DEFAULT_ENCODER, metavar="NAME", help="a model of timm (default: %(default)s)")
    parser.add_argument("--decoder", default=DEFAULT_DECODER, choices=DECODERS, help="(default: %(default)s)")
    parser.add_argument(
        "--weights",
        metavar="WEIGHTS",
        help="encoder weights to start from: imagenet, which timm downloads when the training starts, or a file of timm's "
        "(default: random weights)",
    )
    parser.add_argument("-p", "--plans", default="nnUNetPlans", metavar="NAME", help="plans to start from (default: %(default)s)")
    parser.add_argument("--name", metavar="NAME", help="name of the new plans (default: PLANS_ENCODER_DECODER, and the weights)")
    return parser
