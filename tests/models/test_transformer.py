import math
import warnings

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from dlrun.errors import ConfigError
from dlrun.models.transformer import Transformer

B, T, V = 3, 8, 11
POSITIONS = pytest.mark.parametrize("positions", ["learned", "rotary"])
TIED = pytest.mark.parametrize("tied", [True, False])


def make(seed: int = 0, **changes) -> Transformer:
    torch.manual_seed(seed)
    return Transformer((T,), V, True, nn.GELU, **({"layers": 2, "heads": 2, "width": 16} | changes))


def tokens(length: int = T) -> torch.Tensor:
    return torch.randint(V, (B, length), generator=torch.Generator().manual_seed(1))


@POSITIONS
@TIED
def test_scores_depend_on_the_past_alone(positions, tied):
    model, x = make(positions=positions, tied=tied).eval(), tokens()
    scores = model(x)
    assert scores.shape == (B, T, V)
    changed = x.clone()
    changed[:, 5] = (changed[:, 5] + 1) % V
    same = torch.isclose(scores, model(changed), atol=1e-6).all(-1).all(0)
    assert same.tolist() == 5 * [True] + 3 * [False]
    torch.testing.assert_close(model(x[:, :5]), scores[:, :5], rtol=1e-4, atol=1e-6)


@POSITIONS
@TIED
def test_every_parameter_gets_a_gradient(positions, tied):
    model, x = make(positions=positions, tied=tied), tokens()
    F.cross_entropy(model(x).flatten(0, 1), x.flatten()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@POSITIONS
def test_position_matters(positions):
    model = make(positions=positions).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10)  # at the start attention is almost even, whatever the place
    x = torch.tensor([[1, 2, 3, 4], [2, 1, 3, 4]])
    last = model(x)[:, -1]
    assert (last[0] - last[1]).abs().max() > 1e-3


def test_tied_weights_are_one_table_and_untied_ones_two():
    tied, untied = make(tied=True), make(tied=False)
    count = lambda model: sum(parameter.numel() for parameter in model.parameters())  # noqa: E731
    assert count(untied) - count(tied) == V * 16
    # 2 blocks of 12 W^2 + 13 W (attention 4 W^2 + 4 W, perceptron 8 W^2 + 5 W, two norms 4 W), two tables, one norm
    assert count(tied) == 2 * (12 * 16**2 + 13 * 16) + (V + T) * 16 + 2 * 16


def test_weights_start_as_gpt_2():
    model = Transformer((64,), 200, True, nn.GELU, layers=4, heads=4, width=128)
    deviation = {
        name: float(parameter.detach().std()) for name, parameter in model.named_parameters() if "weight" in name
    }
    for name, found in deviation.items():
        if "norm" in name or "before" in name:
            continue
        residual = name.endswith(("attention.output.weight", "perceptron.2.weight"))
        expected = 0.02 / math.sqrt(8) if residual else 0.02
        assert found == pytest.approx(expected, rel=0.05), name  # 8,192 draws or more: 5 % is 6 standard errors
    x = torch.randint(200, (4, 64))
    loss = F.cross_entropy(model(x).flatten(0, 1), x.roll(-1, 1).flatten())
    assert float(loss.detach()) == pytest.approx(math.log(200), abs=0.1)  # it knows nothing yet


def test_over_fits_one_batch():
    model, x = make(), tokens(T + 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.2  # chance is ln 11 = 2.4


@POSITIONS
@TIED
def test_packs_and_equals_separate_networks(positions, tied):
    models = [make(seed, positions=positions, tied=tied) for seed in (0, 1)]
    x = tokens()
    parameters, buffers = stack_module_state(models)
    base = make(positions=positions, tied=tied).to("meta")

    def loss_of(weights, statistics):
        return F.cross_entropy(functional_call(base, (weights, statistics), (x,)).flatten(0, 1), x.flatten())

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses = vmap(loss_of, randomness="different")(parameters, buffers)
        losses.sum().backward()
    for lane, model in enumerate(models):
        loss = F.cross_entropy(model(x).flatten(0, 1), x.flatten())
        loss.backward()
        torch.testing.assert_close(losses[lane], loss, rtol=1e-5, atol=1e-6)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameters[name].grad[lane], parameter.grad, rtol=1e-3, atol=1e-5)


@POSITIONS
def test_builds_and_runs_on_meta(positions):
    with torch.device("meta"):
        model = make(positions=positions, dropout=0.1)
        assert model(torch.zeros(2, T, dtype=torch.int64)).shape == (2, T, V)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": "rotar"}, "did you mean 'rotary'"),
        ({"layers": 0}, "model.layers=0"),
        ({"heads": 3}, "model.heads=3"),
        ({"dropout": 1.0}, "model.dropout"),
    ],
)
def test_impossible_choices_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        make(**changes)


@pytest.mark.parametrize(
    ("shape", "vocabulary", "per_step"), [((3, 8, 8), 0, False), ((T,), V, False), ((T,), 0, True)]
)
def test_data_without_next_tokens_is_refused(shape, vocabulary, per_step):
    with pytest.raises(ConfigError, match="model=transformer_encoder"):
        Transformer(shape, vocabulary, per_step, nn.GELU)
