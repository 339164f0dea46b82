"""dlrun: deep learning experiments from the shell, driven by Hydra configs, on PyTorch."""

__version__ = "0.1.0"
