"""What a config file may name in ``_target_``: an exact list held in code, and packages trusted on the command line.

A config or a checkpoint from a stranger cannot make dlrun import or call anything else. A block-list would not do:
Hydra's was bypassed three times in 2026.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dlrun.errors import ConfigError, RefusedError, did_you_mean

OWN = frozenset(
    f"dlrun.{module}.{name}"
    for module, names in {
        "adversarial_losses": "LeastSquares NonSaturating Wasserstein",
        "algorithms.adversarial": "Adversarial",
        "algorithms.backpropagation": "Backpropagation",
        "algorithms.closure": "Closure",
        "algorithms.contrastive_divergence": "ContrastiveDivergence",
        "algorithms.layerwise": "Layerwise",
        "algorithms.truncated_backpropagation": "TruncatedBackpropagation",
        "data.audio_folder": "AudioFolder",
        "data.csv_table": "CSV",
        "data.idx_files": "IdxImages",
        "data.image_folder": "ImageFolder",
        "data.libsvm_file": "LibsvmFile",
        "data.playground": "Playground",
        "data.ring": "Ring",
        "data.series": "Series",
        "data.sklearn_sets": "Digits SklearnTable",
        "data.superres": "SuperResolutionFolder",
        "data.text": "Text",
        "data.text_classification": "TextClassification",
        "data.torchvision_sets": "TorchvisionImages",
        "data.webdataset": "WebDataset",
        "engines.auto": "Auto",
        "engines.compiled": "Compiled",
        "engines.cuda_graph": "CudaGraph",
        "engines.ddp": "Ddp",
        "engines.eager": "Eager",
        "engines.fsdp": "Fsdp",
        "losses": "BinaryCrossEntropy CrossEntropy Focal Hinge Huber MeanAbsoluteError MeanSquaredError",
        "models.autoencoder": "Autoencoder",
        "models.cnn": "CNN",
        "models.conv_autoencoder": "ConvAutoencoder",
        "models.dbm": "DBM",
        "models.dbn": "DBN",
        "models.dcgan": "DCGAN",
        "models.dlinear": "DLinear",
        "models.espcn": "ESPCN",
        "models.gan": "GAN",
        "models.gru": "GRU",
        "models.lenet5": "LeNet5",
        "models.lstm": "LSTM",
        "models.mlp": "MLP",
        "models.patch_transformer": "PatchTransformer",
        "models.perceptron": "Perceptron",
        "models.rbm": "RBM",
        "models.resnet": "resnet",
        "models.rnn": "RNN",
        "models.srcnn": "SRCNN",
        "models.svm": "GaussianSVM LinearSVM",
        "models.transformer": "Transformer",
        "models.transformer_encoder": "TransformerEncoder",
        "models.vae": "VAE",
        "models.vit": "VisionTransformer",
        "models.zoo": "torchvision_model",
        "optimizers": "GradientDescent Lion Muon",
        "schedules": "Constant Cosine CosineRestarts Exponential Linear OneCycle Plateau Step",
        "tasks.classification": "Classification",
        "tasks.denoising": "Denoising",
        "tasks.density": "Density",
        "tasks.forecasting": "Forecasting",
        "tasks.generation": "Generation",
        "tasks.language_modelling": "LanguageModelling",
        "tasks.max_margin": "MaxMargin",
        "tasks.reconstruction": "Reconstruction",
        "tasks.regression": "Regression",
        "tasks.super_resolution": "SuperResolution",
        "tasks.variational": "Variational",
        "training.precision": "Precision",
    }.items()
    for name in names.split()
)


def locate(target: str, key: str, trusted: Sequence[str] = ()) -> Callable[..., Any]:
    """The class or function that ``key._target_`` names.

    Raises:
        RefusedError: it is neither on the list nor in a trusted package.
        ConfigError: the package is trusted, but there is no such name in it.
    """
    if not isinstance(target, str) or not all(part.isidentifier() for part in target.split(".")):
        raise RefusedError(f"{key}._target_={target!r} is not a dotted name")
    if target in OWN:
        module, _, name = target.rpartition(".")
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return found
    library = _library(target)
    if library is not None:
        return library
    package = target.partition(".")[0]
    if "." in target and package in trusted and trustworthy(package):
        return _own_package(target, key)
    hint = f"; if it is your own code, trust it on the command line: trust=[{package}]"
    raise RefusedError(
        f"{key}._target_={target} is not on dlrun's list (torch.nn, torch.optim, torchvision.models and dlrun's own "
        f"classes){hint if trustworthy(package) else ''}"
    )


def trustworthy(package: str) -> bool:
    """Whether a package may be trusted at all: never Python's own library, nor what dlrun stands on."""
    return package not in sys.stdlib_module_names and package not in (
        "builtins",
        "dlrun",
        "torch",
        "torchvision",
        "numpy",
    )


def _library(target: str) -> Callable[..., Any] | None:
    """A public class of torch.nn or torch.optim, or a builder of torchvision.models, by its exact name."""
    module, _, name = target.rpartition(".")
    if module in ("torch.nn", "torch.optim"):
        import torch

        base = {"torch.nn": torch.nn.Module, "torch.optim": torch.optim.Optimizer}[module]
        found = getattr(importlib.import_module(module), name, None)
        if not name.startswith("_") and inspect.isclass(found) and issubclass(found, base):
            return found
    if module == "torchvision.models":
        from dlrun.models.zoo import torchvision_model

        return partial(torchvision_model, name=name)
    return None


def _own_package(target: str, key: str) -> Callable[..., Any]:
    """A class or function defined in the user's own module; the current folder is searched last."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    module, _, name = target.rpartition(".")
    try:
        holder = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and module.startswith(error.name):
            raise ConfigError(
                f"{key}._target_={target}: there is no module '{error.name}' on the path or in {here}"
            ) from error
        raise
    found = getattr(holder, name, None)
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        names = [n for n, v in vars(holder).items() if inspect.isclass(v) or inspect.isfunction(v)]
        raise ConfigError(
            f"{key}._target_={target}: '{module}' has no class or function '{name}'{did_you_mean(name, names)}"
        )
    if found.__module__.partition(".")[0] != target.partition(".")[0]:
        raise RefusedError(f"{key}._target_={target} is really {found.__module__}.{found.__qualname__}: name it there")
    return found
