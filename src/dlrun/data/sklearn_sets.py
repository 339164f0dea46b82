"""The small data sets that come with scikit-learn: nothing is fetched, and their facts are constants.

Their files are read here: importing scikit-learn takes two seconds, longer than many a training on them.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from dlrun.data import Examples, Splits
from dlrun.data.facts import Facts
from dlrun.data.pixels import NOTES, chosen_range, drawn, preprocess_for
from dlrun.data.tabular import TablePreprocess, part_sizes, three_parts
from dlrun.errors import ConfigError, DataError, did_you_mean

DIGITS = 1797
WHITEST = 16.0  # a digit's pixel counts the dark dots of a 4 x 4 block of the scan


@dataclass(frozen=True)
class Known:
    """What is known of a table without reading it; ``classes`` is empty for regression."""

    examples: int
    features: tuple[str, ...]
    target: str
    classes: tuple[str, ...] = ()


CELL_MEASURES = (
    *("radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity", "concave points"),
    *("symmetry", "fractal dimension"),
)
TABLES = {
    "iris": Known(
        150,
        ("sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"),
        "species",
        ("setosa", "versicolor", "virginica"),
    ),
    "wine": Known(
        178,
        (
            *("alcohol", "malic_acid", "ash", "alcalinity_of_ash", "magnesium", "total_phenols", "flavanoids"),
            *("nonflavanoid_phenols", "proanthocyanins", "color_intensity", "hue", "od280/od315_of_diluted_wines"),
            "proline",
        ),
        "cultivar",
        ("class_0", "class_1", "class_2"),
    ),
    "breast_cancer": Known(
        569,
        (
            *(f"mean {measure}" for measure in CELL_MEASURES),
            *(f"{measure} error" for measure in CELL_MEASURES),
            *(f"worst {measure}" for measure in CELL_MEASURES),
        ),
        "diagnosis",
        ("malignant", "benign"),
    ),
    "diabetes": Known(442, ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"), "progression"),
}


class SklearnTable:
    """A table of numbers: ``iris``, ``wine``, ``breast_cancer`` (two classes) or ``diabetes`` (regression).

    Inputs are standardised with the statistics of the training part alone; the target of ``diabetes`` (disease
    progression after one year, 25 to 346) stays in its own units.
    """

    def __init__(self, *, name: str, val: float = 0.1, test: float = 0.2, seed: int = 0) -> None:
        self.name, self.val, self.test, self.seed = name, val, test, seed

    def facts(self) -> Facts:
        """Everything there is to know, without reading. Raises ConfigError for a name that is not one of the four."""
        if self.name not in TABLES:
            raise ConfigError(f"data.name={self.name} is no table of scikit-learn{did_you_mean(self.name, TABLES)}")
        known = TABLES[self.name]
        return Facts(
            name=self.name,
            kind="table",
            input_shape=(len(known.features),),
            task="classification" if known.classes else "regression",
            classes=known.classes,
            targets=() if known.classes else (known.target,),
            features=known.features,
            sizes=part_sizes(known.examples, self.val, self.test),
        )

    def load(self) -> Splits:
        """Read, split and standardise."""
        facts, known = self.facts(), TABLES[self.name]
        inputs, answers = _read(self.name, len(known.features))
        targets = answers.to(torch.int64 if known.classes else torch.float32)
        labels = targets if known.classes else None
        targets = targets if known.classes else targets[:, None]
        parts = three_parts(len(inputs), self.val, self.test, self.seed, labels)
        preprocess = TablePreprocess.standardising(known.features, inputs[parts[0]], known.target)
        train, val, test = (Examples(preprocess.encode_numbers(inputs[part]), targets[part]) for part in parts)
        return Splits(facts, train, val, test, preprocess, _fingerprint(inputs, targets))


class Digits:
    """1,797 handwritten digits of 8 x 8 pixels in 17 grey levels (UCI optical recognition of handwritten digits).

    Inputs are uint8 (N, 1, 8, 8) from 0 to 16; the preprocessing brings them to the range ``pixels`` of
    ``dlrun.data.pixels``, ``wanted_pixels`` (the task's) where it is ``auto``.
    """

    def __init__(
        self,
        *,
        val: float = 0.1,
        test: float = 0.2,
        seed: int = 0,
        pixels: str = "auto",
        wanted_pixels: str = "standard",
    ) -> None:
        self.val, self.test, self.seed = val, test, seed
        self.pixels = chosen_range(pixels, wanted_pixels)

    def facts(self) -> Facts:
        """Everything there is to know, without reading."""
        return Facts(
            name="digits",
            kind="image",
            input_shape=(1, 8, 8),
            task="classification",
            classes=tuple("0123456789"),
            sizes=part_sizes(DIGITS, self.val, self.test),
            notes=NOTES[self.pixels],
        )

    def load(self) -> Splits:
        """Read and split; what the preprocessing measures is of the training part."""
        pixels, answers = _read("digits", 64)
        images, labels = pixels.to(torch.uint8).view(-1, 1, 8, 8), answers.to(torch.int64)
        parts = three_parts(len(images), self.val, self.test, self.seed, labels)
        held = [Examples(images[part], labels[part]) for part in parts]
        train, val, test = drawn(self.pixels, held, self.seed, WHITEST)
        preprocess = preprocess_for(self.pixels, train.inputs, WHITEST)
        return Splits(self.facts(), train, val, test, preprocess, _fingerprint(images, labels))


FILES = {
    "digits": ("digits.csv.gz",),
    "iris": ("iris.csv",),
    "wine": ("wine_data.csv",),
    "breast_cancer": ("breast_cancer.csv",),
    "diabetes": ("diabetes_data_raw.csv.gz", "diabetes_target.csv.gz"),
}


def _read(name: str, features: int) -> tuple[Tensor, Tensor]:
    """Inputs (N, features) and targets (N,) of a data set, float64. Raises DataError where its file is missing."""
    columns = torch.cat([_numbers(file) for file in FILES[name]], dim=1)
    return columns[:, :features].contiguous(), columns[:, features].contiguous()


def _numbers(file: str) -> Tensor:
    """The numbers of a file, float64; its first line is left out where it has words."""
    found = find_spec("sklearn")
    folder = Path(found.origin).parent if found is not None and found.origin is not None else Path("sklearn")
    path = folder / "datasets" / "data" / file
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): install scikit-learn again") from error
    rows = [line.replace(",", " ").split() for line in data.decode("ascii").splitlines()]
    if not rows[0][-1][0].isdigit():
        del rows[0]
    return torch.tensor([list(map(float, row)) for row in rows], dtype=torch.float64)


def _fingerprint(inputs: Tensor, targets: Tensor) -> str:
    return hashlib.sha256(inputs.numpy().tobytes() + targets.numpy().tobytes()).hexdigest()
