"""Language modelling: which token comes next, at every position of a text.

Shape legend: B examples of a batch, T positions, V tokens of the vocabulary.

The loss is cross-entropy in nats per token. Bits per character divide it by the characters that the tokens stand for,
so that networks with different tokens can be compared; perplexity is e to the nats per token.
The baseline is the unigram model: each token's share of the training text, with one added to every count (Laplace), so
that a token never seen has a probability too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from dlrun.data.facts import Facts
from dlrun.errors import ConfigError
from dlrun.losses import Loss
from dlrun.tasks import Batch, Logs, Measured, Monitor, Network, Source, check_loss, made_up_inputs

Scores = Callable[[Tensor], Tensor]


class LanguageModelling:
    """Scores (B, T, V) against the tokens (B, T) that come next."""

    name: ClassVar[str] = "language_modelling"
    pixels: ClassVar[str] = "standard"
    requires: ClassVar[tuple[str, ...]] = ()
    usual_loss: ClassVar[str] = "CrossEntropy"
    per_step: ClassVar[bool] = True
    answers: ClassVar[str] = "text"

    def __init__(self, loss: Loss, facts: Facts) -> None:
        if facts.task != self.name or not facts.vocabulary:
            raise ConfigError(
                f"task=language_modelling predicts the next token of a text, but '{facts.name}' is for {facts.task}: "
                "use data=text, or task=auto"
            )
        check_loss(loss, self.name, facts)
        self.loss_function = loss
        self.facts = facts
        self.monitor = Monitor("bits_per_character", higher_is_better=False)
        self.characters = torch.tensor([len(text) for text in facts.features])
        self.counts = torch.zeros(facts.vocabulary, dtype=torch.int64)

    def out_shape(self) -> tuple[int, ...]:
        """A score for each token at each position."""
        return (*self.facts.input_shape, self.facts.vocabulary)

    def metric_names(self) -> tuple[str, ...]:
        """The loss in nats per token, two other units of it, and the share of tokens that are guessed."""
        return ("loss", "perplexity", "bits_per_character", "accuracy")

    def output_layer(self) -> tuple[str, str]:
        """The output layer in words, and why."""
        return f"{self.facts.vocabulary} units at each position, softmax", "one of the tokens comes next"

    def example(self) -> Batch:
        """Two windows of the first token."""
        inputs = made_up_inputs(self.facts)
        return inputs, torch.zeros_like(inputs)

    def fit(self, targets: Tensor, batches: Source) -> None:
        """Count the tokens (N,) of the training part."""
        self._learn(torch.bincount(targets.cpu(), minlength=self.facts.vocabulary))

    def _learn(self, counts: Tensor) -> None:
        self.counts = counts
        self.loss_function.fit(counts.clamp(min=1))

    def loss(self, model: Network, batch: Batch) -> tuple[Tensor, Logs]:
        """Forward pass and mean loss of all positions of a batch."""
        inputs, targets = batch
        loss = self.loss_function(self._rows(model(inputs)), targets.flatten())
        return loss, {"loss": loss.detach()}

    def _rows(self, outputs: Tensor) -> Tensor:
        return outputs.reshape(-1, self.facts.vocabulary)  # (B, T, V) -> (B*T, V)

    def measure(self, model: Network, batches: Iterable[Batch], split: str) -> Measured:
        """Metrics over a part, batch by batch: its scores together may be larger than the memory."""
        unigram = ((self.counts + 1) / (self.counts + 1).sum()).log()
        commonest = int(self.counts.argmax())
        found, naive = Tally(), Tally()
        for inputs, targets in batches:
            scores, wanted = self._rows(model(inputs)).float(), targets.flatten()
            self.characters, unigram = self.characters.to(wanted.device), unigram.to(wanted.device)
            characters = self.characters[wanted].sum()
            nats = F.cross_entropy(scores, wanted, reduction="sum")
            loss = self.loss_function(scores, wanted) * len(wanted)
            found.add(loss, nats, (scores.argmax(1) == wanted).sum(), len(wanted), characters)
            nats = -unigram[wanted].sum()
            naive.add(nats, nats, (wanted == commonest).sum(), len(wanted), characters)
        return Measured(found.metrics(), naive.metrics())

    @torch.no_grad()
    def continue_text(
        self,
        model: Any,
        tokens: Tensor,
        length: int,
        temperature: float = 1.0,
        top_k: int = 0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw the tokens that follow a prompt, one after the other, each from the model's scores.

        Args:
            model: in evaluation mode, on the prompt's device.
            tokens: the prompt (N,) int64; empty: a line end, or the commonest token.
            length: how many tokens to draw.
            temperature: divides the scores: below 1 safer, above 1 wilder, 0 the likeliest token each time.
            top_k: draw from the k likeliest tokens; 0: from all.
            generator: of the CPU; None: torch's own.

        Returns:
            (length,) int64, without the prompt.

        Raises:
            ConfigError: a number is out of its range.
        """
        _check_sampling(length, temperature, top_k)
        text = tokens if len(tokens) else torch.tensor([self._first()], device=tokens.device)
        start = len(text)
        look = going_on(model) if hasattr(model, "unroll") else looking_back(model, self.facts.input_shape[0])
        for _ in range(length):
            scores = look(text).reshape(-1, self.facts.vocabulary)[-1].float().cpu()  # (V,)
            drawn = draw(scores, temperature, top_k, generator).to(text.device)
            text = torch.cat([text, drawn])
        return text[start:]

    def _first(self) -> int:
        return self.facts.features.index("\n") if "\n" in self.facts.features else int(self.counts.argmax())

    def state(self) -> dict[str, Any]:
        """Token counts of the training part."""
        return {"counts": self.counts.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take the token counts of a checkpoint."""
        self._learn(torch.tensor(state["counts"], dtype=torch.int64))


class Tally:
    """Sums over the tokens of a part, on the device: nothing waits for it."""

    def __init__(self) -> None:
        self.sums: list[Tensor] = []
        self.tokens = 0

    def add(self, loss: Tensor, nats: Tensor, right: Tensor, tokens: int, characters: Tensor) -> None:
        """Sums of a batch: the loss, nats, tokens guessed, tokens, and the characters they stand for."""
        batch = [loss, nats, right, characters]
        self.sums = (
            [a + b.double() for a, b in zip(self.sums, batch, strict=True)]
            if self.sums
            else [value.double() for value in batch]
        )
        self.tokens += tokens

    def metrics(self) -> Logs:
        """The means, 0-d."""
        loss, nats, right, characters = self.sums
        mean = nats / self.tokens
        return {
            "loss": loss / self.tokens,
            "perplexity": mean.exp(),
            "bits_per_character": nats / characters.clamp(min=1) / math.log(2),
            "accuracy": right / self.tokens,
        }


def looking_back(model: Network, context: int) -> Scores:
    """Scores of what follows a text (N,), from as many of its last tokens as the network takes."""
    return lambda text: model(text[-context:].unsqueeze(0))


def going_on(model: Any) -> Scores:
    """Scores of what follows a text (N,), reading only what is new since the last call: the state has the rest."""
    state: Any = None
    read = 0

    def scores(text: Tensor) -> Tensor:
        nonlocal state, read
        outputs, state = model.unroll(text[read:].unsqueeze(0), state)
        read = len(text)
        found: Tensor = outputs
        return found

    return scores


def draw(scores: Tensor, temperature: float, top_k: int, generator: torch.Generator | None) -> Tensor:
    """One token (1,) from scores (V,)."""
    if temperature == 0:
        return scores.argmax().unsqueeze(0)
    if 0 < top_k < len(scores):
        least = scores.topk(top_k).values[-1]
        scores = scores.masked_fill(scores < least, -torch.inf)
    return torch.multinomial((scores / temperature).softmax(0), 1, generator=generator)


def _check_sampling(length: int, temperature: float, top_k: int) -> None:
    if length < 0:
        raise ConfigError(f"a text cannot go on for {length} tokens; use for example --length 200")
    if not 0 <= temperature < math.inf:
        raise ConfigError(
            f"a temperature of {temperature} cannot be used; 0 takes the likeliest token, 1 draws as learnt"
        )
    if top_k < 0:
        raise ConfigError(
            f"the {top_k} likeliest tokens cannot be drawn from; use for example --top-k 20, or 0 for all"
        )
