"""Each family trained whole, and trained with a SIGKILL two steps after a checkpoint and resumed: the same bits?

    python killed_families.py ROOT SERIES IMAGES MORE SHARED NAME...

Prints one JSON line per family: whether it was killed, at which step it was found, and the two digests.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from killed import digest, saved_step

import family_cases as cases
from dlrun.config import compose
from dlrun.resume import resume
from dlrun.run import train
from dlrun.training.callbacks import Saver
from dlrun.training.checkpoint import Checkpoints
from quiet import Quiet

SAVED, KILLED, STEPS = 3, 5, 8
SHORT = [
    "tracking=minimal", "tracking.every=2", f"trainer.steps={STEPS}", "trainer.evaluate_steps=4",
    "trainer.batch_size=8", f"trainer.checkpoint_every={SAVED}", "trainer.limit={train: 60, val: 10, test: 10}",
]  # fmt: skip


def attempt(root: Path, words: list[str], deadly: bool) -> int:
    """Start or go on with a run in a child process; returns its wait status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    code = 1
    try:
        if deadly:
            saving = Saver.on_step

            def on_step(self: Saver, trainer: Any, logs: Any) -> None:
                saving(self, trainer, logs)
                if trainer.step == KILLED and trainer.plan.total_steps == STEPS:  # not in a run inside it
                    os.kill(os.getpid(), signal.SIGKILL)

            Saver.on_step = on_step  # type: ignore[method-assign]
        runs = sorted(root.glob("*/*/config.yaml"))
        if runs:
            resume(runs[0].parent, overrides=[], reporter=Quiet())
        else:
            train(compose(words), root=root, command=["dlrun", "train"], reporter=Quiet())
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def last(root: Path) -> str:
    """The digest of a run's newest checkpoint."""
    (folder,) = root.glob("*/*/checkpoints")
    found = Checkpoints(folder).newest()
    return digest(found[0]) if found else "no checkpoint"


def main() -> None:
    root, shared = Path(sys.argv[1]), Path(sys.argv[2])
    files = {name: Path(path) for name, path in json.loads(sys.argv[3]).items()}
    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    for name in sys.argv[4:]:
        words = cases.overrides(name, files) + SHORT
        words += [f"data.root={shared}"] if {"data=mnist", "data=fashion_mnist"} & set(words) else []
        here = root / name
        assert attempt(here / "whole", words, deadly=False) == 0, name
        status = attempt(here / "killed", words, deadly=True)
        found = saved_step(here / "killed")
        assert attempt(here / "killed", words, deadly=False) == 0, name
        digests = last(here / "whole"), last(here / "killed")
        print(json.dumps({"name": name, "killed": os.WIFSIGNALED(status), "found": found, "digests": digests}))


if __name__ == "__main__":
    main()
