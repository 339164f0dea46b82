"""A stand-in for everything below the command line. Run as a script it is ``dlrun``."""

import sys
import time
import types
from dataclasses import dataclass, field
from pathlib import Path

from dlrun.errors import ConfigError, DataError, DivergedError, LockedError


@dataclass(frozen=True)
class Facts:  # importing dlrun's own would import torch into every process of these tests
    name: str
    classes: tuple
    kind: str = "image"


@dataclass(frozen=True)
class Row:
    name: str
    kind: str
    input_shape: tuple
    output_shape: tuple
    parameters: int
    multiply_adds: int


@dataclass
class Description:
    choices: list
    layers: list
    facts: Facts
    config: object = None
    notes: list = field(default_factory=list)


@dataclass
class Evaluation:
    split: str
    step: int
    epoch: float
    metrics: dict


@dataclass
class Outcome:
    path: Path
    status: str
    metrics: dict
    exit_code: int


@dataclass
class Predictions:
    rows: list
    path: Path
    text: str | None = None
    pictures: list = field(default_factory=list)


@dataclass
class Wishes:
    prompt: str | None = None
    length: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    count: int | None = None
    seed: int | None = None


CALLS = []
BASELINE = {"accuracy": 0.1011}
RECORDS = [
    {
        "path": "/o/2026-11-20/100000-mlp-adam-aaaa",
        "created": "2026-11-20T10:00:00",
        "status": "done",
        "data": {"name": "digits"},
        "model": "mlp",
        "optimizer": "adam",
        "steps": 1200,
        "seconds": 65.2,
        "metrics": {"test/accuracy": 0.97, "test/loss": 0.1},
        "best": {"step": 900, "metric": "accuracy", "value": 0.98},
    },
    {
        "path": "/o/2026-11-21/110000-cnn-sgd-bbbb",
        "created": "2026-11-21T11:00:00",
        "status": "diverged",
        "data": {"name": "mnist"},
        "model": "cnn",
        "optimizer": "sgd",
        "metrics": {"test/accuracy": "NaN"},
    },
    {"path": "/o/2026-11-21/120000-cnn-adam-cccc", "status": "unreadable"},
    {
        "path": "/o/2026-11-21/130000-mlp-adam-dddd",
        "created": "2026-11-21T13:00:00",
        "status": "done",
        "data": {"name": "diabetes"},
        "model": "mlp",
        "optimizer": "adam",
        "seconds": 3700,
        "metrics": {"test/r2": 0.5, "test/loss": 0.4},
    },
]


def description(layers=3, notes=()):
    rows = [Row(f"layers.{i}", "Linear", (64,), (32,), 2080, 2048) for i in range(layers)]
    facts = Facts("digits", ("0", "[red]1", "2\x1b[31m"))
    choices = [("data", "digits", "1,797 images"), ("loss", "cross_entropy", "10 classes\x1b]0;x\x07")]
    from omegaconf import OmegaConf

    return Description(choices, rows, facts, OmegaConf.create({"model": {"hidden": [64]}}), list(notes))


def compose(overrides, config_dirs=()):
    from omegaconf import OmegaConf

    CALLS.append(("compose", list(overrides), list(config_dirs)))
    if "modle=cnn" in overrides:
        raise ConfigError("modle=cnn: there is no group or key 'modle'; did you mean 'model'?")
    config = {"optimizer": {"lr": 0.01, "rate": "${optimizer.lr}", "none": None}}
    config |= {"trainer": {"devices": 1}, "words": list(overrides)}
    return OmegaConf.create(config)


FAILURES = {
    "fail=data": DataError("table.csv, row 3: 'x' is no number"),
    "fail=diverged": DivergedError("the loss became NaN at step 7"),
    "fail=locked": LockedError("process 7 works on this run"),
    "fail=memory": MemoryError(),
    "fail=accelerator": type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"),
    "fail=allocator": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    "fail=full": OSError(28, "No space left on device", "/o/x"),
    "fail=readonly": OSError(30, "Read-only file system"),
    "fail=bug": ZeroDivisionError("division by zero"),
    "fail=interrupt": KeyboardInterrupt(),
}


def train(config, *, root, command, reporter, trusted=()):
    CALLS.append(("train", list(config.words), root, command, trusted))
    for word in config.words:
        if word in FAILURES:
            raise FAILURES[word]
    path = Path(root) / "2026-11-21" / "143005-mlp-adam-k7f2"
    reporter.experiment(description(notes=["a column is dropped"]), path)
    reporter.evaluation(Evaluation("val", 0, 0.0, {"loss": 2.3, "accuracy": 0.09}), BASELINE, 100)
    for step in range(0, 101, 20):
        reporter.progress(
            step, 100, step / 100, {"train/loss": 1.5, "rate": 0.01, "val/loss": 2.3, "val/accuracy": 0.09}
        )
        if "slow=true" in config.words:
            print("ready", flush=True)
            time.sleep(30)
    reporter.warn("the loss stands still")
    reporter.evaluation(Evaluation("val", 100, 1.0, {"loss": 0.5, "accuracy": 0.9}), BASELINE, 100)
    metrics = {"test/loss": 0.4567891, "test/accuracy": 0.91234}
    reporter.closing("done", metrics, {"test/accuracy": 0.1011}, path, {"time": "0:07"})
    return Outcome(path, "done", metrics, 0)


def devices_of(path, overrides, trusted=()):
    return 1


def resume(path, *, overrides, reporter, trusted=()):
    CALLS.append(("resume", path, overrides, trusted))
    reporter.note("the run is finished")
    return Outcome(path, "done", {"test/accuracy": 0.9}, 0)


def evaluate(path, *, split=None, reporter, trusted=()):
    split = split or "test"
    CALLS.append(("evaluate", path, split, trusted))
    metrics = {f"{split}/loss": float("nan"), f"{split}/accuracy": 0.9}
    reporter.closing(f"Evaluation on {split}", metrics, {}, path, {})
    return metrics


def predict(path, inputs, *, output, wishes, trusted=()):
    CALLS.append(("predict", path, inputs, output, wishes, trusted))
    target = output or path / "predictions" / "1.csv"
    if wishes.prompt:
        return Predictions([], target, text="said")
    rows = [{"name": f"row {i}", "prediction": "cat\x1b[31m", "probability": 0.98765} for i in range(25)]
    return Predictions(rows, target)


def describe(config, trusted=()):
    CALLS.append(("describe", list(config.words), trusted))
    return description(60, notes=["the middle is long"])


def outputs_root(explicit):
    return Path(explicit or "outputs")


def find_run(text, root):
    if text == "last":
        return root / "2026-11-21" / "143005-mlp-adam-k7f2"
    raise ConfigError(f"there is no run '{text}' under {root}; 'dlrun runs' lists them")


def list_runs(root):
    return [dict(record) for record in RECORDS] if "empty" not in str(root) else []


def modules():
    """Fake modules by the name under which the commands import them."""
    run = types.ModuleType("dlrun.run")
    run.__dict__.update(train=train, describe=describe)
    going_on = types.ModuleType("dlrun.resume")
    going_on.__dict__.update(resume=resume, devices_of=devices_of)
    trained = types.ModuleType("dlrun.trained")
    trained.__dict__.update(evaluate=evaluate)
    asked = types.ModuleType("dlrun.predict")
    asked.__dict__.update(predict=predict, Wishes=Wishes)
    directory = types.ModuleType("dlrun.tracking.run_directory")
    directory.__dict__.update(outputs_root=outputs_root, find_run=find_run, list_runs=list_runs)
    return {
        "dlrun.run": run,
        "dlrun.resume": going_on,
        "dlrun.trained": trained,
        "dlrun.predict": asked,
        "dlrun.tracking.run_directory": directory,
    }


if __name__ == "__main__":
    import dlrun.config
    from dlrun.cli.main import main

    sys.modules.update(modules())
    dlrun.config.compose = compose
    sys.exit(main())
