"""Training on two ranks, as nnU-Net's DDP does it, but with gloo on the CPU."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.test_trainers_contract import DATASET, PATCH, make_plans, workplace  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow

# another network, parameters without a gradient, and a term of the loss with a target of its own
TRAINERS = ["nnUNetTrainerAxialAttention", "nnUNetTrainerFrozenEncoder", "nnUNetTrainerFineTune", "nnUNetTrainerSkeletonRecall"]
CONFIGURATION = "3d_fullres"


def train_rank(rank: int, world: int, port: int, trainer_name: str, out: str) -> None:
    """One rank; nnU-Net's run_ddp without its two CUDA-only lines."""
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as module
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    from tests.test_trainers_contract import Dataset

    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    distributed = module.DDP
    module.DDP = lambda network, device_ids: distributed(network)  # device_ids is for GPUs only
    dataset = Dataset(Path(os.environ["nnUNet_preprocessed"]) / DATASET, channels=1, has_ignore=False)
    plans = make_plans(CONFIGURATION, 1, PATCH[CONFIGURATION])
    plans["configurations"][CONFIGURATION]["batch_dice"] = True  # formed over the patches of both ranks
    trainer = recursive_find_trainer_class_by_name(trainer_name)(plans, CONFIGURATION, 0, dataset.json, torch.device("cpu"))
    trainer.device, trainer.grad_scaler = torch.device("cpu"), None
    trainer.run_training()
    weights = torch.cat([parameter.detach().flatten() for parameter in trainer.network.parameters()])
    torch.save({"weights": weights, "batch_size": trainer.batch_size}, Path(out) / f"rank{rank}.pt")
    dist.barrier()  # neither leaves while the other still talks to it
    dist.destroy_process_group()


@pytest.mark.parametrize("trainer_name", TRAINERS)
def test_two_ranks_train_one_network(trainer_name, workplace, tmp_path):  # noqa: F811
    workplace.make_dataset(CONFIGURATION, 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(train_rank, args=(2, port, trainer_name, str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    assert [rank["batch_size"] for rank in ranks] == [1, 1]
    torch.testing.assert_close(ranks[0]["weights"], ranks[1]["weights"])
    checkpoint = next((tmp_path / "results").rglob("checkpoint_final.pth"))
    saved = torch.load(checkpoint, map_location="cpu", weights_only=False)
    assert saved["trainer_name"] == trainer_name
    assert not any(key.startswith("module.") for key in saved["network_weights"])
