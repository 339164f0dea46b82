"""What is known of a data set: enough to size a network's input and output layers and to refuse a wrong pairing.

No torch here: facts are read by ``dlrun show`` and by the checks that run before data is touched.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Facts:
    """Facts of one data set after preprocessing, without the batch dimension.

    Attributes:
        name: the data set's name as in the config group (``digits``).
        kind: ``image`` and ``audio`` (input_shape (C, H, W); a spectrogram is (1, bands, frames)), ``table`` ((F,)),
            ``points`` ((2,), drawn as a plane), ``text`` ((T,) tokens) or ``series`` ((T, F)).
        input_shape: shape of one example as the network sees it.
        task: ``classification``, ``regression``, ``language_modelling``, ``forecasting`` or ``super_resolution``: what
            the data are for, unless the model or the user says otherwise.
        classes: names of the classes, in the order of their index; empty when there are none.
        targets: names of the numbers to predict; empty when there are none.
        features: names of the input columns of a table or series, in order, or the text of each token of a language.
        sizes: examples in ``train``, ``val`` and ``test``.
        notes: one sentence for each thing that was decided about the data (a dropped column, a filled gap).
        vocabulary: number of tokens; inputs are int64 indices then. 0 for numbers.
        padding: the token that fills short sequences on the right, where there is one.
        target_shape: shape of one target that is neither a class nor a row of numbers: tokens (T,), the values ahead
            (H, F), a large picture (C, H, W).
        target_scales: mean and deviation of each target column of a series, whose values come standardised.
        scale: factor of super-resolution.
    """

    name: str
    kind: str
    input_shape: tuple[int, ...]
    task: str
    classes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    vocabulary: int = 0
    padding: int | None = None
    target_shape: tuple[int, ...] = ()
    target_scales: tuple[tuple[float, float], ...] = ()
    scale: int = 1

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 for regression."""
        return len(self.classes)

    @property
    def num_targets(self) -> int:
        """Number of values to predict; 0 for classification."""
        return len(self.targets)
