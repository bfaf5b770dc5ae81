"""Checkpoints that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


class AtomicCheckpointMixin:
    """A checkpoint gets its name when it is complete, so that one is loadable whenever the training is killed."""

    def save_checkpoint(self, filename: str) -> None:
        """Write the checkpoint beside its place, then move it there.

        Args:
            filename: where nnU-Net wants it.
        """
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)  # writes nothing
            return
        # always the same name: what a kill leaves behind is overwritten by the next one
        partial = Path(f"{filename}.part")
        try:
            super().save_checkpoint(str(partial))
            with partial.open("rb+") as file:
                os.fsync(file.fileno())  # else a power cut can leave the name without the content
            os.replace(partial, filename)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
