import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dlrun.data.facts import Facts
from dlrun.errors import ConfigError
from dlrun.losses import CrossEntropy, MeanSquaredError
from dlrun.tasks.language_modelling import LanguageModelling

B, T = 3, 5
TEXTS = ("a", "b", "\n", "the")
V = len(TEXTS)


def facts(**changes) -> Facts:
    given = {
        "input_shape": (T,),
        "task": "language_modelling",
        "vocabulary": V,
        "features": TEXTS,
        "target_shape": (T,),
    }
    return Facts(**({"name": "text", "kind": "text"} | given | changes))


def task(**loss) -> LanguageModelling:
    made = LanguageModelling(CrossEntropy(**loss), facts())
    made.fit(torch.tensor([0, 0, 0, 0, 1, 1, 2]), list)
    return made


def batches(count: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    source = torch.Generator().manual_seed(0)
    sizes = [B] * (count - 1) + [1]
    return [tuple(torch.randint(V, (2, size, T), generator=source).unbind(0)) for size in sizes]


class Table(nn.Module):
    """Scores that depend on the last token alone."""

    def __init__(self, scores: torch.Tensor | None = None) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.randn(V, V) if scores is None else scores)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scores[x]


def test_loss_is_the_mean_over_all_positions():
    model, (inputs, targets) = Table(), batches()[0]
    loss, logs = task().loss(model, (inputs, targets))
    by_hand = [-model(inputs)[b, t].log_softmax(0)[targets[b, t]] for b in range(B) for t in range(T)]
    torch.testing.assert_close(loss, torch.stack(by_hand).mean())
    assert torch.equal(logs["loss"], loss.detach())
    assert not logs["loss"].requires_grad


def test_flat_outputs_are_taken_too():
    model, batch = Table(), batches()[0]
    flat, _ = task().loss(lambda x: model(x).flatten(1), batch)
    assert torch.equal(flat, task().loss(model, batch)[0])


def test_measured_in_batches_is_measured_at_once():
    model, made = Table(), task()
    model.requires_grad_(False)  # the caller sees to that
    found = made.measure(model, batches(), "val")
    inputs, targets = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    scores = model(inputs)
    nats = F.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="sum")
    characters = sum(len(TEXTS[token]) for token in targets.flatten())
    expected = {
        "loss": nats / targets.numel(),
        "perplexity": (nats / targets.numel()).exp(),
        "bits_per_character": nats / math.log(2) / characters,
        "accuracy": (scores.argmax(-1) == targets).double().mean(),
    }
    assert tuple(found.metrics) == made.metric_names() == tuple(expected)
    for name, value in expected.items():
        assert float(found.metrics[name]) == pytest.approx(value.item(), rel=1e-5), name
    assert found.outputs is None


def test_the_baseline_is_the_smoothed_unigram():
    shares = torch.tensor([5, 3, 2, 1]) / 11  # counts 4, 2, 1, 0 and one more each
    targets = torch.cat([y for _, y in batches()]).flatten()
    nats = -shares.log()[targets].sum().item()
    found = task().measure(Table(), batches(), "val").baseline
    assert float(found["loss"]) == pytest.approx(nats / len(targets), rel=1e-5)
    assert float(found["accuracy"]) == pytest.approx((targets == 0).double().mean().item())
    characters = sum(len(TEXTS[token]) for token in targets)
    assert float(found["bits_per_character"]) == pytest.approx(nats / math.log(2) / characters, rel=1e-5)


def test_a_smoothed_loss_leaves_the_bits_as_they_are():
    model = Table()
    plain, smooth = (task(label_smoothing=s).measure(model, batches(), "val").metrics for s in (0.0, 0.2))
    assert smooth["loss"] != plain["loss"]
    assert torch.equal(smooth["bits_per_character"], plain["bits_per_character"])


def test_state_restores_the_baseline():
    other = LanguageModelling(CrossEntropy(), facts())
    other.restore(task().state())
    first, second = (made.measure(Table(), batches(), "val").baseline for made in (task(), other))
    assert first == second


def test_balanced_weights_hear_of_the_tokens():
    model, batch = Table(), batches()[0]
    assert task(class_weights="balanced").loss(model, batch)[0] != task().loss(model, batch)[0]


def test_greedy_follows_the_highest_score():
    cycle = torch.eye(V).roll(1, 1)  # after token i comes i + 1
    drawn = task().continue_text(Table(cycle), torch.tensor([0]), 6, temperature=0)
    assert drawn.tolist() == [1, 2, 3, 0, 1, 2]


def test_drawn_tokens_have_the_probabilities_of_the_scores():
    scores = torch.tensor([0.5, 0.0, -1.0, 1.0]).expand(V, V)
    made, source = task(), torch.Generator().manual_seed(0)
    for temperature in (0.5, 1.0, 2.0):
        drawn = made.continue_text(Table(scores), torch.tensor([0]), 600, temperature, generator=source)
        shares = torch.bincount(drawn, minlength=V) / 600
        # 600 draws: 0.08 is 4 standard errors of a share of a half
        torch.testing.assert_close(shares, (scores[0] / temperature).softmax(0), atol=0.08, rtol=0)


def test_top_k_leaves_the_others_out_and_a_generator_repeats():
    model, made = Table(torch.tensor([0.5, 0.0, -1.0, 1.0]).expand(V, V)), task()
    drawn = [
        made.continue_text(model, torch.tensor([0]), 200, top_k=2, generator=torch.Generator().manual_seed(1))
        for _ in range(2)
    ]
    assert set(drawn[0].tolist()) == {0, 3}
    assert torch.equal(*drawn)


def test_long_texts_are_cropped_to_the_context():
    seen = []

    def model(x):
        seen.append(x)
        return torch.zeros(*x.shape, V)

    prompt = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    assert len(task().continue_text(model, prompt, 2)) == 2
    assert seen[0].tolist() == [[2, 3, 0, 1, 2]]
    assert seen[1].shape == (1, T)


def test_a_model_with_a_state_reads_each_token_once():
    class Sum(nn.Module):
        """Its state is the sum of all tokens so far, and the next token is that modulo V."""

        read = 0

        def unroll(self, x, state):
            self.read += x.numel()
            totals = x.cumsum(1) + (0 if state is None else state)
            return F.one_hot(totals % V, V).float(), totals[:, -1:]

    model = Sum()
    drawn = task().continue_text(model, torch.tensor([1, 1]), 5, temperature=0)
    assert drawn.tolist() == [2, 0, 0, 0, 0]  # 1+1; then 4, 4, ...
    assert model.read == 2 + 4


def test_an_empty_prompt_starts_with_a_line_end():
    seen = []

    def model(x):
        seen.append(x.tolist())
        return torch.zeros(*x.shape, V)

    assert len(task().continue_text(model, torch.zeros(0, dtype=torch.int64), 1)) == 1
    assert seen == [[[2]]]


@pytest.mark.parametrize("wrong", [{"length": -1}, {"temperature": -0.5}, {"temperature": math.nan}, {"top_k": -1}])
def test_impossible_sampling_is_refused(wrong):
    with pytest.raises(ConfigError):
        task().continue_text(Table(), torch.tensor([0]), **({"length": 3} | wrong))


def test_other_data_and_losses_are_refused():
    with pytest.raises(ConfigError, match="data=text"):
        LanguageModelling(CrossEntropy(), facts(task="classification", classes=("x", "y")))
    with pytest.raises(ConfigError, match="loss=cross_entropy"):
        LanguageModelling(MeanSquaredError(), facts())


def test_the_example_goes_through_the_loss():
    made = task()
    inputs, targets = made.example()
    assert inputs.shape == targets.shape == (2, T)
    assert Table()(inputs).shape[1:] == made.out_shape()
    assert made.loss(Table(), (inputs, targets))[0].isfinite()


def test_the_gallery_shows_a_continuation_and_changes_nothing():
    from dlrun.tracking.shown.language_modelling import drawings

    model = Table(torch.eye(V).roll(1, 1) * 50).train()
    look = SimpleNamespace(
        model=model, task=task(), facts=facts(), device=torch.device("cpu"), inputs=torch.tensor([[0.0, 1, 2, 3, 0]])
    )
    before = torch.get_rng_state()
    text = drawings(look)["pictures/continuation"]()
    assert "    ab\n    thea" in text
    assert "    b\n    theab\n    theab" in text
    assert model.training
    assert torch.equal(before, torch.get_rng_state())
