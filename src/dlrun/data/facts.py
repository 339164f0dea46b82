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
        kind: ``image`` (input_shape (C, H, W)), ``table`` ((F,)) or ``points`` ((2,), drawn as a plane).
        input_shape: shape of one example as the network sees it.
        task: ``classification`` or ``regression``.
        classes: names of the classes, in the order of their index; empty for regression.
        targets: names of the numbers to predict; empty for classification.
        features: names of the input columns of a table, in order.
        sizes: examples in ``train``, ``val`` and ``test``.
        notes: one sentence for each thing that was decided about the data (a dropped column, a filled gap).
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

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 for regression."""
        return len(self.classes)

    @property
    def num_targets(self) -> int:
        """Number of values to predict; 0 for classification."""
        return len(self.targets)
