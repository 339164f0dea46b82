"""A process that trains one step and says when it was done: the time of the machine's monotonic clock, into a file.

    BENCH_FIRST_STEP=FILE python first_step.py WAY IMAGES SCRATCH DEVICE

dlrun runs as its console script does; its trainer is watched by a hook on the import of its module, so that nothing is
imported sooner than without it. The other ways are those of the table of steps on an epoch of one batch.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from pathlib import Path
from typing import Any

TRAINER = "dlrun.training.trainer"


def tell() -> None:
    """Write down that the first step is done, and end the process."""
    moment = time.monotonic()
    Path(os.environ["BENCH_FIRST_STEP"]).write_text(repr(moment))
    os._exit(0)


class Watching:
    """A finder that changes ``Trainer.advance`` as soon as its module is there."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """None but for the trainer's module."""
        if name != TRAINER:
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def changed(module: Any) -> None:
            execute(module)
            module.Trainer.advance = lambda trainer, logs: _done(logs)

        spec.loader.exec_module = changed  # type: ignore[method-assign]
        return spec


def _done(logs: Any) -> None:
    for value in logs[-1].values():
        value.item()  # waits for the device
    tell()


def by_dlrun(images: str, scratch: str, device: str) -> None:
    sys.meta_path.insert(0, Watching())  # type: ignore[arg-type]
    words = ["data=fashion_mnist", f"data.root={images}", "data.download=false", "model=mlp", "model.hidden=[128]"]
    words += ["trainer.batch_size=32", "trainer.epochs=1", f"trainer.device={device}"]
    os.chdir(scratch)
    sys.argv = ["dlrun", "train", *words]
    from dlrun.cli.main import entry

    sys.exit(entry())


def by_hand_or_peer(way: str, images: str, scratch: str, device: str) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from ways import WAYS
    from work import Clock, Work

    class Cold(Work):
        """The case of the MLP from the data set's own files, one batch of it."""

        def __init__(self) -> None:
            import torch
            from cases import case_of

            self.case = case_of("mlp32")
            self.kind, self.device, self.scratch = self.case.kind, torch.device(device), Path(scratch)
            self.batch, self.epochs, self.steps_per_epoch, self.steps = self.case.batch, 1, 1, 1
            self.job = {"images": images, "seed": 0}
            self._data = {"vocabulary": 0, "rows": range(self.batch)}

        def tensors(self) -> Any:
            """The training part read whole, as bytes, then its first batch."""
            import torch

            raw = Path(images) / "FashionMNIST" / "raw"
            pixels = bytearray((raw / "train-images-idx3-ubyte").read_bytes())
            labels = bytearray((raw / "train-labels-idx1-ubyte").read_bytes())
            x = torch.frombuffer(pixels, dtype=torch.uint8, offset=16).view(-1, 1, 28, 28).float().div_(255)
            y = torch.frombuffer(labels, dtype=torch.uint8, offset=8).long()
            return x[: self.batch].to(self.device), y[: self.batch].to(self.device)

    clock = Clock(Cold().device)
    stop = clock.stop

    def stop_and_tell() -> None:
        stop()
        tell()

    clock.stop = stop_and_tell  # type: ignore[method-assign]
    WAYS[way].train()(Cold(), clock)


if __name__ == "__main__":
    if sys.argv[1] == "dlrun":
        by_dlrun(*sys.argv[2:])
    else:
        by_hand_or_peer(*sys.argv[1:])
