"""Loss and gradient of a batch compiled into one program by ``torch.compile``; the update stays as it is written.

Where the algorithm is plain backpropagation, forward pass, loss and backward pass become one program
(``gradient_program``). Elsewhere, and for a network that cannot be differentiated that way, the forward pass and the
loss are compiled and autograd runs the backward pass that the compiler made of them. What cannot be compiled at all
runs as it is written, and the reason is told once; so do recurrent layers, whose fused kernels the compiler leaves
alone and which lose by what it puts around them (a fifth of a step on the CPU).
Batches of another size than the run's, such as the last of an epoch, run as they are written too: compiling them takes
longer than they ever win. Evaluation is a small share of a run and would need a program of its own, so it stays as it
is.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlrun.algorithms import Algorithm
from dlrun.algorithms.accumulation import Accumulation
from dlrun.algorithms.backpropagation import Backpropagation
from dlrun.engines import Step
from dlrun.engines.gradient_program import GradientProgram
from dlrun.errors import ConfigError, DlrunError, did_you_mean
from dlrun.tasks import Batch

logger = logging.getLogger(__name__)

# inductor's own; those that capture CUDA graphs are left out, for a graph of the whole step is engine=cuda_graph.
MODES: dict[str, dict[str, Any]] = {
    "default": {},
    "max-autotune": {"max_autotune": True, "coordinate_descent_tuning": True},
}


class Compiled:
    """Compiles the algorithm's loss and its gradient.

    Args:
        mode: ``default``, or ``max-autotune``, which tries variants of each kernel for minutes.
        batch_size: examples of a whole batch; None takes the size of the first.

    Raises:
        ConfigError: an unknown mode.
    """

    def __init__(self, mode: str = "default", batch_size: int | None = None) -> None:
        if mode not in MODES:
            raise ConfigError(f"engine.mode={mode}: no such mode{did_you_mean(mode, MODES)}; have {', '.join(MODES)}")
        self.mode = mode
        self.batch_size = batch_size

    def refusal(self, algorithm: type, device: torch.device) -> str:
        """Why it cannot be used with these, as the end of a sentence about it; empty where it can."""
        if not hasattr(algorithm, "forward"):
            return "compiles one loss, which this algorithm has not; use engine=eager"
        missing = missing_compiler(device)
        return f"needs {missing}, or use engine=eager" if missing else ""

    def prepare(self, algorithm: Algorithm) -> Step:
        """The algorithm's step, compiled; the first call compiles, for seconds, or reads what an earlier run did."""
        if any(isinstance(module, nn.RNNBase) for module in algorithm.model.modules()):
            logger.warning("engine=compile: recurrent layers run in torch's own kernels, which are faster uncompiled")
            return algorithm.step
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # on the CPU a missing GPU is no news
        keep_programs()
        if isinstance(algorithm, Backpropagation):
            return WholeGradient(algorithm, self.batch_size, MODES[self.mode])
        compile_forward(algorithm, self.mode, self.batch_size)
        return algorithm.step


class WholeGradient:
    """A step of backpropagation whose gradient is one program; of another size, the step as it is written."""

    def __init__(self, algorithm: Backpropagation, size: int | None, options: dict[str, Any]) -> None:
        self.algorithm, self.size, self.options = algorithm, size, options
        self.program: GradientProgram | None = None
        self.gives_up = False

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """One step on a batch."""
        size = len(batch[0])
        self.size = self.size or size
        if size != self.size or self.gives_up:
            return self.algorithm.step(batch)
        try:
            self.program = self.program or GradientProgram(self.algorithm, batch, self.options)
            logs = self.program(batch)
        except Exception as error:  # before its first end nothing has changed; then only a limit of the compiler
            if isinstance(error, DlrunError) or not _of_the_compiler(error, self.program):
                raise
            self._give_up(error)
            return self.algorithm.step(batch)
        self.algorithm.updater.step()
        return logs

    def _give_up(self, error: Exception) -> None:
        """Go on with the forward pass alone where the program was refused; if that fails too, it says so itself."""
        refused = self.program is None or not self.program.proved
        self.gives_up, self.program = True, None
        _tell("loss and gradient are no one program", error)
        if refused:
            compile_forward(self.algorithm, "default", self.size, self.options)


def compile_forward(
    algorithm: Any, mode: str = "default", size: int | None = None, options: dict[str, Any] | None = None
) -> None:
    """Replace the algorithm's ``forward`` by a compiled one, for batches of one size.

    The compiler's own CUDA graphs are off, so that the step around may be captured into one.

    Args:
        algorithm: has ``forward(batch) -> (loss, logs)``.
        mode: one of ``MODES``.
        size: examples of a whole batch (of a piece of it where the algorithm cuts it); None: of the first one.
        options: the compiler's, in place of those of ``mode``.
    """
    if isinstance(algorithm, Accumulation) and size is not None:
        size = max(2, -(-size // algorithm.pieces))
    keep_programs()
    algorithm.forward = _Forward(algorithm.forward, size, MODES[mode] if options is None else options)


class _Forward:
    """A forward pass, compiled for batches of one size that are to be differentiated."""

    def __init__(self, written: Callable[[Batch], Any], size: int | None, options: dict[str, Any]) -> None:
        self.written, self.size = written, size
        self.compiled: Callable[[Batch], Any] | None = torch.compile(written, dynamic=False, options=options or None)
        self.proved = False

    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and logs."""
        if self.compiled is not None and torch.is_grad_enabled():
            self.size = self.size or len(batch[0])
            if len(batch[0]) == self.size:
                return self._compiled(self.compiled, batch)
        found: tuple[Tensor, dict[str, Tensor]] = self.written(batch)
        return found

    def _compiled(self, compiled: Callable[[Batch], Any], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        found: tuple[Tensor, dict[str, Tensor]]
        try:
            found = compiled(batch)
        except Exception as error:
            if self.proved or isinstance(error, DlrunError):
                raise
            self.compiled = None
            _tell("the forward pass is not compiled", error)
            found = self.written(batch)
        self.proved = True
        return found


def missing_compiler(device: torch.device) -> str:
    """What has to be installed before anything can be compiled, as a noun phrase; empty where nothing is missing."""
    if device.type == "cuda":
        if find_spec("triton") is None:
            return "Triton, which is not installed: pip install triton"
        found = any(shutil.which(name) for name in (os.environ.get("CC"), "gcc", "clang", "cc") if name)
        return "" if found else "a C compiler, and there is none: apt install gcc"
    words = shlex.split(os.environ.get("CXX", "")) or ["clang++" if sys.platform == "darwin" else "g++"]
    if shutil.which(words[0]):
        return ""
    how = "xcode-select --install" if sys.platform == "darwin" else "apt install g++"
    return f"a C++ compiler, and there is no '{words[0]}': {how}, or set CXX"


def keep_programs() -> None:
    """Have the compiler keep what it makes in a folder of the user's, so that the next run finds it.

    ``TORCHINDUCTOR_CACHE_DIR`` wins; without it ``dlrun/inductor`` under ``XDG_CACHE_HOME``, or ``~/.cache``. Where
    that cannot be written, or others may write there (what lies there is run), the compiler's own temporary folder
    serves.
    """
    if "TORCHINDUCTOR_CACHE_DIR" in os.environ:
        return
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dlrun" / "inductor"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, RuntimeError):  # no home, or a home that is read-only
        return
    mine = folder.stat()
    if mine.st_uid == os.getuid() and not mine.st_mode & 0o022 and os.access(folder, os.W_OK):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


def _of_the_compiler(error: Exception, program: GradientProgram | None) -> bool:
    """Whether the program could not be made, or is refused another variant of itself; not an error of the step."""
    return program is None or not program.proved or type(error).__name__ == "FailOnRecompileLimitHit"


def _tell(what: str, error: Exception) -> None:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    logger.warning("engine=compile: %s: %s", what, lines[0][:200])
