"""Optimizers over stacked tensors: about ten kernels for a whole pack, with each lane's own numbers."""

from dlrun.packing.optimizers.packed import Packed, pack

__all__ = ["Packed", "pack"]
