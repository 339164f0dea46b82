"""The graph of every kind of layer, traced without leaving a trace."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dlrun.models.cnn import CNN
from dlrun.models.mlp import MLP
from dlrun.tracking.graph import trace


class Sequences(nn.Module):
    """Embedding, recurrence, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.recurrence = nn.LSTM(8, 8, batch_first=True)
        self.attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.output = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.output(self.attention(self.recurrence(self.embedding(inputs.long()))[0])[:, -1])
        return found


MODELS = [
    (lambda: MLP((2,), 2, nn.Tanh), (2,), "Linear"),
    (lambda: CNN((1, 28, 28), 10, nn.ReLU), (1, 28, 28), "Conv2d"),
    (Sequences, (7,), "LSTM"),
    (lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)), (3,), "Dropout"),
]


@pytest.mark.parametrize(("make", "shape", "layer"), MODELS, ids=[layer for *_, layer in MODELS])
def test_layers_are_nodes_and_the_model_is_untouched(make: object, shape: tuple[int, ...], layer: str) -> None:
    model = make()  # type: ignore[operator]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    graph, _ = trace(model, torch.ones(4, *shape))
    assert any(layer in node.name for node in graph.node)
    assert model.training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_failure_is_raised_and_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError):
        trace(nn.Linear(3, 2), torch.ones(1, 5))
    assert capsys.readouterr().out == ""
