"""The order of a picture's numbers in memory: one channel after another (N, C, H, W), or channels last (N, H, W, C).

Convolutions are quicker where a pixel's channels lie side by side. Measured on one thread of an AMD EPYC with
Fashion-MNIST, a whole training step takes 0.77 of the time for the small CNN, 0.80 for the convolutional autoencoder,
0.86 for ResNet-20, 0.96 for DCGAN and 0.98 for LeNet-5. Sums are made in another order, so results differ in their last
digits from those of the other layout, and dropout takes away other places; within one layout they are the same to the
bit. Trials of a pack lie channel after channel, so those that lie channels last are trained one by one, which on a CPU
is as quick for convolutions (``scripts/bench/results/packing.md``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dlrun.errors import ConfigError

UNPACKABLE = "its convolutions lie channels last; trainer.channels_last=false packs"
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def lies_channels_last(wanted: bool | str, model: nn.Module, inputs: Tensor, device: torch.device) -> bool:
    """Whether a network's weights are to lie with their channels last; ``model`` is changed.

    ``auto``: two-dimensional convolutions on the CPU, where it was measured; not for a network that cannot run so,
    because it calls ``view`` on what a convolution gives.

    Args:
        wanted: true, false or ``auto``.
        model: a network of its own for this question, on the CPU.
        inputs: a made-up batch.
        device: where the run takes place.

    Raises:
        ConfigError: it was asked for and cannot be.
    """
    convolves = inputs.dim() == 4 and any(isinstance(module, CONVOLUTIONS) for module in model.modules())
    if not wanted or (wanted == "auto" and not (convolves and device.type == "cpu")):
        return False
    try:
        with torch.no_grad():
            laid_out(model)(inputs)
    except RuntimeError as error:
        if wanted == "auto":
            return False
        why = str(error).strip().splitlines()[0]
        raise ConfigError(f"trainer.channels_last=true: the network cannot run so ({why}); use auto") from error
    return True


def laid_out(model: nn.Module) -> nn.Module:
    """The network with the weights of its two-dimensional convolutions channels last, so that its maps lie so too."""
    found: nn.Module = model.to(memory_format=torch.channels_last)
    return found


def lies_so(model: nn.Module) -> bool:
    """Whether some weight of the network lies channels last."""
    return any(
        p.dim() == 4 and not p.is_contiguous() and p.is_contiguous(memory_format=torch.channels_last)
        for p in model.parameters()
    )


def like(value: Tensor, parameter: Tensor) -> Tensor:
    """``value`` in the layout of a parameter of its shape, as fused kernels take it to lie."""
    if value.shape != parameter.shape or value.stride() == parameter.stride():
        return value
    return torch.empty_like(parameter, dtype=value.dtype, memory_format=torch.preserve_format).copy_(value)
