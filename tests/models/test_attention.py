import warnings

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from dlrun.errors import ConfigError
from dlrun.models.attention import Block, SelfAttention, fused, rotate, rotation, written_out

B, T, W, H = 3, 7, 16, 4
EVERY_WAY = pytest.mark.parametrize(("causal", "rotary"), [(False, False), (True, False), (False, True), (True, True)])


def padding() -> torch.Tensor:
    """Real lengths 7, 4 and 0."""
    return torch.arange(T) < torch.tensor([[T], [4], [0]])


def heads(seed: int = 0) -> list[torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    return [torch.randn(B, H, T, W // H, generator=source).requires_grad_() for _ in range(3)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", [None, padding()], ids=["whole", "padded"])
def test_written_out_equals_torchs_kernel(causal, mask):
    """Values and gradients; 1e-5 is 50 roundings of float32 at values of about 1."""
    ours, torchs = heads(), heads()
    first, second = written_out(*ours, causal, mask, 0.0), fused(*torchs, causal, mask, 0.0)
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)
    for out in (first, second):
        out.square().sum().backward()
    for mine, theirs in zip(ours, torchs, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_written_out_is_equation_1():
    queries, keys, values = (x.detach() for x in heads())
    expected = torch.zeros_like(values)
    for b in range(B):
        for h in range(H):
            for t in range(T):
                scores = [float(queries[b, h, t] @ keys[b, h, s]) / (W // H) ** 0.5 for s in range(T)]
                weights = torch.tensor(scores).softmax(0)
                expected[b, h, t] = sum(weights[s] * values[b, h, s] for s in range(T))
    torch.testing.assert_close(written_out(queries, keys, values, False, None, 0.0), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_equals_torchs_multihead_attention(causal):
    ours = SelfAttention(W, H, 0.0, causal, rotary=False).eval()
    torchs = nn.MultiheadAttention(W, H, batch_first=True).eval()
    torchs.in_proj_weight = ours.queries_keys_values.weight
    torchs.in_proj_bias = ours.queries_keys_values.bias
    torchs.out_proj.load_state_dict(ours.output.state_dict())
    x = torch.randn(B, T, W)
    forbidden = torch.ones(T, T, dtype=torch.bool).triu(1) if causal else None
    expected, _ = torchs(x, x, x, attn_mask=forbidden)
    torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-5)


def block(causal: bool, rotary: bool, dropout: float = 0.0) -> Block:
    torch.manual_seed(0)
    return Block(W, H, nn.GELU, dropout, causal, rotary)


@EVERY_WAY
def test_later_positions_are_seen_only_when_not_causal(causal, rotary):
    model, x = block(causal, rotary).eval(), torch.randn(B, T, W)
    changed = x.clone()
    changed[:, 5] = torch.randn(B, W)
    same = torch.isclose(model(x), model(changed), atol=1e-6).all(-1).all(0)
    assert same[:5].tolist() == 5 * [causal]
    assert same[5:].tolist() == 2 * [False]


@EVERY_WAY
def test_padding_is_not_seen_and_never_nan(causal, rotary):
    model, x, mask = block(causal, rotary).eval(), torch.randn(B, T, W), padding()
    other = torch.where(mask.unsqueeze(-1), x, 9 * torch.randn(B, T, W))
    first, second = model(x, mask), model(other, mask)
    assert first.isfinite().all()
    torch.testing.assert_close(first[mask], second[mask], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(first[1, :4], model(x[1:2, :4])[0], rtol=1e-5, atol=1e-5)


@EVERY_WAY
@pytest.mark.parametrize("mask", [None, padding()], ids=["whole", "padded"])
def test_packs_without_a_warning_and_equals_separate_networks(causal, rotary, mask):
    models = [block(causal, rotary), block(causal, rotary)]
    with torch.no_grad():
        for parameter in models[1].parameters():
            parameter.add_(0.01)
    x = torch.randn(B, T, W)
    parameters, buffers = stack_module_state(models)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outs = vmap(lambda p, b: functional_call(models[0], (p, b), (x, mask)))(parameters, buffers)
        outs.square().sum().backward()
    for lane, model in enumerate(models):
        alone = model(x, mask)
        torch.testing.assert_close(outs[lane], alone, rtol=1e-5, atol=1e-5)
        alone.square().sum().backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameters[name].grad[lane], parameter.grad, rtol=1e-3, atol=1e-4)


@EVERY_WAY
def test_builds_and_runs_on_meta(causal, rotary):
    with torch.device("meta"):
        model = Block(W, H, nn.GELU, 0.1, causal, rotary)
        x = torch.zeros(B, T, W)
        assert model(x, torch.ones(B, T, dtype=torch.bool)).shape == (B, T, W)


def test_rotary_products_depend_on_the_distance_alone_and_lengths_stay():
    cosine, sine = rotation(20, 8, torch.zeros(()))
    query, key = torch.randn(8), torch.randn(8)
    turned = [rotate(x.expand(20, 8), cosine, sine) for x in (query, key)]
    products = turned[0] @ turned[1].T  # (20, 20)
    for distance in range(-15, 16, 5):
        line = products.diagonal(distance)
        torch.testing.assert_close(line, line[0].expand_as(line), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(products[0, 0], query @ key, rtol=1e-5, atol=1e-5)
    assert products.diagonal(3)[0] != pytest.approx(float(products.diagonal(-3)[0]), abs=1e-3)
    torch.testing.assert_close(turned[0].norm(dim=1), query.norm().expand(20), rtol=1e-5, atol=1e-5)


def test_rotation_is_a_complex_product():
    """Equation (12) of RoFormer: (x_0 + i x_1) e^(i t theta) for each pair."""
    x = torch.randn(5, 6)
    angles = torch.arange(5.0)[:, None] * 10_000.0 ** (-torch.arange(0, 6, 2) / 6)
    expected = torch.view_as_real(torch.view_as_complex(x.view(5, 3, 2)) * torch.polar(torch.ones(5, 3), angles))
    torch.testing.assert_close(rotate(x, *rotation(5, 6, x)), expected.flatten(1), rtol=1e-5, atol=1e-6)


def test_a_block_without_positions_treats_a_set():
    model, x = block(causal=False, rotary=False).eval(), torch.randn(B, T, W)
    order = torch.randperm(T)
    torch.testing.assert_close(model(x[:, order]), model(x)[:, order], rtol=1e-5, atol=1e-5)
    turned = block(causal=False, rotary=True).eval()
    assert not torch.allclose(turned(x[:, order]), turned(x)[:, order], atol=1e-3)


def test_dropout_acts_in_training_alone():
    model, x = block(causal=True, rotary=False, dropout=0.5), torch.randn(B, T, W)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_attention_dropout_keeps_the_mean_in_both_ways():
    """Over 2,000 draws the mean weight is within 5 standard errors of what it is without dropout."""
    queries, keys = torch.randn(1, 1, 4, 2), torch.randn(1, 1, 4, 2)
    values = torch.eye(4).expand(1, 1, 4, 4)
    exact = written_out(queries, keys, values, False, None, 0.0)
    many = [x.expand(2000, 1, 4, -1) for x in (queries, keys, values)]
    for way in (written_out, fused):
        draws = way(*many, False, None, 0.5)
        assert ((draws.mean(0) - exact[0]).abs() < 5 * exact[0] / 2000**0.5).all()
        assert draws.std(0).min() > 0


def test_the_residual_layers_are_those_that_add_to_x():
    model, x = block(causal=True, rotary=False), torch.randn(B, T, W)
    for layer in model.onto_the_residual():
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    assert torch.equal(model(x), x)


@pytest.mark.parametrize(
    ("width", "count", "dropout", "rotary", "key"),
    [
        (10, 3, 0.0, False, "model.heads=2 model.width=10"),
        (10, 0, 0.0, False, "model.heads=1"),
        (0, 1, 0.0, False, "model.width"),
        (6, 2, 0.0, True, "model.width=12"),
        (8, 2, 1.0, False, "model.dropout"),
    ],
)
def test_impossible_sizes_are_refused(width, count, dropout, rotary, key):
    with pytest.raises(ConfigError, match=key):
        Block(width, count, nn.GELU, dropout, True, rotary)


def test_bfloat16_is_close():
    model, x = block(causal=True, rotary=True).eval(), torch.randn(B, T, W)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(x)
    assert F.mse_loss(half.float(), model(x)) < 1e-3
