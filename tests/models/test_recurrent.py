"""The recurrent families against torch's own layers, padding against sequences without it, and the carried state."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from dlrun.errors import ConfigError
from dlrun.models.gru import GRU, GRU_CELL
from dlrun.models.lstm import LSTM, LSTM_CELL
from dlrun.models.recurrent import POOLS, Cell, Stack, State, Stateful, reverse, write_out
from dlrun.models.recurrent_network import RecurrentNetwork
from dlrun.models.rnn import CELLS, RNN

B, T, E, H, V = 3, 7, 4, 5, 6
FAMILIES: dict[str, Callable[..., RecurrentNetwork]] = {"rnn": RNN, "gru": GRU, "lstm": LSTM}
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)

# A name -> the cell, and torch's whole layer of the same family.
ORACLES: dict[str, tuple[Cell, Callable[..., nn.RNNBase]]] = {
    "tanh": (CELLS["tanh"], lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="tanh", **options)),
    "relu": (CELLS["relu"], lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options)),
    "gru": (GRU_CELL, nn.GRU),
    "lstm": (LSTM_CELL, nn.LSTM),
}


def twins(name: str, layers: int, bidirectional: bool) -> tuple[Stack, nn.RNNBase]:
    """dlrun's layers and torch's, with the same weights."""
    cell, layer = ORACLES[name]
    stack = Stack(cell, E, H, layers, bidirectional, dropout=0.0)
    oracle = layer(E, H, num_layers=layers, bidirectional=bidirectional, batch_first=True)
    with torch.no_grad():
        for theirs, mine in pairs(stack, oracle):
            theirs.copy_(mine)
    return stack, oracle


def pairs(stack: Stack, oracle: nn.RNNBase) -> Iterator[tuple[Tensor, Tensor]]:
    """Each parameter of torch's layer and its counterpart."""
    for name, theirs in oracle.named_parameters():
        kind, number = name.removesuffix("_reverse").rsplit("_l", 1)
        direction = stack.layers[int(number)][1 if name.endswith("_reverse") else 0]  # type: ignore[index]
        yield theirs, getattr(direction.kernel, f"{kind}_l0")


def as_state(hidden: Tensor | State) -> State:
    return (hidden,) if isinstance(hidden, Tensor) else hidden


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one direction", "both"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "written out"])
@pytest.mark.parametrize("name", ORACLES)
def test_outputs_state_and_gradients_equal_torchs_layer(
    name: str, fused: bool, layers: int, bidirectional: bool
) -> None:
    """To 1e-6, which is float32's own precision over seven steps."""
    stack, oracle = twins(name, layers, bidirectional)
    if not fused:
        write_out(stack)
    x, y = (torch.randn(B, T, E).requires_grad_() for _ in range(2))
    y.data.copy_(x.data)
    outputs, after = stack(x, None, None)
    expected, end = oracle(y)
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-6)
    for mine, theirs in zip(after, as_state(end), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
    weight = torch.randn_like(outputs)
    sum([part.square().mean() for part in after], (outputs * weight).mean()).backward()
    sum([part.square().mean() for part in as_state(end)], (expected * weight).mean()).backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=0, atol=1e-6)
    for theirs, mine in pairs(stack, oracle):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-6)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "written out"])
@pytest.mark.parametrize("name", ORACLES)
def test_goes_on_from_a_state_as_torchs_layer_does(name: str, fused: bool) -> None:
    stack, oracle = twins(name, 2, bidirectional=False)
    if not fused:
        write_out(stack)
    state = tuple(torch.randn(2, B, H) for _ in range(ORACLES[name][0].parts))
    x = torch.randn(B, T, E)
    outputs, after = stack(x, None, state)
    expected, end = oracle(x, state if len(state) > 1 else state[0])
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-6)
    for mine, theirs in zip(after, as_state(end), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


@every_family
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one direction", "both"])
def test_padding_changes_nothing(family: Callable[..., RecurrentNetwork], pool: str, bidirectional: bool) -> None:
    """Exact to rounding, also for the second direction, and no gradient comes from the padding."""
    model = family((T,), (3,), V, padding=0, hidden=H, layers=2, bidirectional=bidirectional, embedding=E, pool=pool)
    short = torch.tensor([[2, 3, 1, 5]])
    padded = nn.functional.pad(short, (0, T - 4))
    other = torch.tensor([[1, 2, 3, 4, 5, 4, 3]])
    torch.testing.assert_close(model(torch.cat([padded, other]))[:1], model(short), rtol=0, atol=1e-6)
    table = model.input.table.weight  # type: ignore[union-attr]
    with torch.no_grad():
        before = model(padded)
        table[0] = 9.0  # type: ignore[index]
        torch.testing.assert_close(model(padded), before, rtol=0, atol=0)


def test_pools_are_what_they_are_called() -> None:
    x, lengths = torch.randn(2, 4, 6), torch.tensor([2, 4])
    for name, one in [("mean", x[0, :2].mean(0)), ("max", x[0, :2].amax(0))]:
        torch.testing.assert_close(POOLS[name](x, lengths, 1)[0], one)
        torch.testing.assert_close(POOLS[name](x, None, 1)[0], getattr(x[0], {"max": "amax"}.get(name, name))(0))
    assert torch.equal(POOLS["last"](x, lengths, 1), torch.stack([x[0, 1], x[1, 3]]))
    both = POOLS["last"](x, lengths, 2)
    assert torch.equal(both[0], torch.cat([x[0, 1, :3], x[0, 0, 3:]]))
    assert torch.equal(POOLS["last"](x, None, 2)[0], torch.cat([x[0, 3, :3], x[0, 0, 3:]]))


def test_reversing_twice_gives_the_sequence_back() -> None:
    x, lengths = torch.randn(2, 4, 3), torch.tensor([2, 4])
    back = reverse(x, lengths)
    assert torch.equal(back[0], x[0, [1, 0, 2, 3]])
    assert torch.equal(back[1], x[1].flip(0))
    assert torch.equal(reverse(back, lengths), x)
    assert torch.equal(reverse(reverse(x, None), None), x)


@every_family
def test_shapes_for_every_kind_of_input_and_output(family: Callable[..., RecurrentNetwork]) -> None:
    tokens = torch.zeros(B, T, dtype=torch.int64)
    assert family((T,), (T, V), V, per_step=True, hidden=H)(tokens).shape == (B, T, V)
    assert family((T,), (3,), V, padding=0, hidden=H)(tokens).shape == (B, 3)
    assert family((T, E), (2, 4), hidden=H)(torch.randn(B, T, E)).shape == (B, 2, 4)
    assert family((1, 8, 6), (10,), hidden=H)(torch.randn(B, 1, 8, 6)).shape == (B, 10)
    assert family((T,), (), hidden=H)(torch.randn(B, T)).shape == (B,)


@every_family
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one direction", "both"])
def test_packs_under_vmap_when_written_out(family: Callable[..., RecurrentNetwork], bidirectional: bool) -> None:
    models = [family((T,), (3,), V, 0, hidden=H, layers=2, bidirectional=bidirectional) for _ in range(2)]
    tokens = torch.tensor([[2, 3, 1, 5, 0, 0, 0], [1, 2, 3, 4, 5, 4, 3]])
    parameters, _ = stack_module_state(models)  # type: ignore[arg-type]
    base = family((T,), (3,), V, 0, hidden=H, layers=2, bidirectional=bidirectional).to("meta")
    write_out(base)

    def total(weights: dict[str, Tensor]) -> Tensor:
        outputs: Tensor = functional_call(base, (weights,), (tokens,))
        return outputs.square().sum()

    losses = vmap(total)(parameters)
    losses.sum().backward()
    for lane, model in enumerate(models):
        alone = model(tokens).square().sum()  # with the fused kernel
        alone.backward()
        torch.testing.assert_close(losses[lane], alone, rtol=1e-5, atol=1e-6)
        for key, parameter in model.named_parameters():
            torch.testing.assert_close(parameters[key].grad[lane], parameter.grad, rtol=1e-4, atol=1e-6, msg=key)  # type: ignore[index]


@every_family
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "written out"])
def test_runs_without_numbers(family: Callable[..., RecurrentNetwork], fused: bool) -> None:
    with torch.device("meta"):
        model = family((T,), (3,), V, 0, hidden=H, layers=2, bidirectional=True, pool="mean")
        if not fused:
            write_out(model)
        outputs = model(torch.zeros(B, T, dtype=torch.int64))
        assert outputs.shape == (B, 3)
        outputs.sum().backward()


@every_family
def test_same_seed_same_bits_with_the_fused_kernel(family: Callable[..., RecurrentNetwork]) -> None:
    """Under torch's strict switch, so that a kernel that may differ from run to run would raise."""

    def trained() -> list[Tensor]:
        torch.manual_seed(1)
        model = family((T,), (3,), V, 0, hidden=H, layers=2, bidirectional=True, dropout=0.3)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randint(V, (B, T))).square().mean().backward()
            optimizer.step()
        return [parameter.detach() for parameter in model.parameters()]

    torch.use_deterministic_algorithms(True)
    try:
        first, second = trained(), trained()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@every_family
def test_one_long_sequence_in_pieces_is_the_same_sequence(family: Callable[..., RecurrentNetwork]) -> None:
    model = family((T,), (T, V), V, per_step=True, hidden=H, layers=2)
    text = torch.randint(V, (B, 4 * T))
    whole, end = model.unroll(text, None)  # type: ignore[operator]
    carried = Stateful(model)  # type: ignore[arg-type]
    pieces = torch.cat([carried(piece) for piece in text.split(T, 1)], 1)
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-6)
    assert carried.state is not None
    for mine, theirs in zip(carried.state, end, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
        assert not mine.requires_grad


def test_a_carried_state_follows_the_first_rows_and_starts_anew_for_more() -> None:
    model = LSTM((T,), (T, V), V, per_step=True, hidden=H)
    carried, text = Stateful(model), torch.randint(V, (B, 3 * T))
    first, second, third = text.split(T, 1)
    carried(first)
    state = carried.state
    assert state is not None
    narrow = carried(second[:2])
    expected = model.unroll(second[:2], (state[0][:, :2], state[1][:, :2]))[0]
    assert torch.equal(narrow, expected)
    assert torch.equal(carried(third), model(third))


@every_family
def test_what_cannot_be_built_is_refused(family: Callable[..., RecurrentNetwork]) -> None:
    wrong = [{"hidden": 0}, {"layers": 0}, {"dropout": 1.0}, {"pool": "lats"}, {"embedding": 0}]
    for options in wrong:
        with pytest.raises(ConfigError, match=rf"model\.{next(iter(options))}"):
            family((T,), (3,), V, **options)
    with pytest.raises(ConfigError, match=r"model\.bidirectional=false"):
        family((T,), (T, V), V, per_step=True, bidirectional=True)


def test_a_network_of_both_directions_has_no_state_to_go_on_from() -> None:
    model = GRU((T,), (3,), V, hidden=H, bidirectional=True)
    _, state = model.unroll(torch.zeros(B, T, dtype=torch.int64), None)
    with pytest.raises(ConfigError, match=r"model\.bidirectional=false"):
        model.unroll(torch.zeros(B, T, dtype=torch.int64), state)


@pytest.mark.parametrize("name", ORACLES)
def test_half_precision_keeps_the_weights_in_float32(name: str) -> None:
    """bfloat16 has 8 bits: 3 percent of the largest output, which is below 1 for all but the rectifier."""
    stack, _ = twins(name, 2, bidirectional=False)
    x = torch.randn(B, T, E)
    exact, _ = stack(x, None, None)
    with torch.autocast("cpu", torch.bfloat16):
        outputs, state = stack(x, None, None)
        outputs, _ = stack(x, None, state)
        rough, _ = stack(x, None, None)
    outputs.float().sum().backward()
    assert (rough.float() - exact).abs().max() < 0.03 * exact.abs().max().clamp(min=1)
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in stack.parameters())  # type: ignore[union-attr]
