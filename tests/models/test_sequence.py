"""Tokens, series, pictures and rows as one sequence of vectors."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call, stack_module_state, vmap

from dlrun.errors import ConfigError
from dlrun.models.sequence import SequenceInput

TOKENS = torch.tensor([[3, 1, 2, 0, 0], [4, 4, 4, 4, 4], [0, 0, 0, 0, 0]])


def test_tokens_are_looked_up_and_padding_is_zero() -> None:
    reader = SequenceInput((5,), vocabulary=6, padding=0, width=3)
    vectors = reader(TOKENS)
    assert (reader.steps, reader.features) == (5, 3)
    assert torch.equal(vectors[0, 1], reader.table.weight[1])  # type: ignore[union-attr, index]
    assert torch.equal(vectors[0, 3:], torch.zeros(2, 3))


def test_lengths_and_mask_stop_before_the_padding() -> None:
    reader = SequenceInput((5,), vocabulary=6, padding=0, width=3)
    assert reader.lengths(TOKENS).tolist() == [3, 5, 1]  # type: ignore[union-attr]
    assert reader.mask(TOKENS).tolist() == [  # type: ignore[union-attr]
        [True, True, True, False, False],
        [True] * 5,
        [True, False, False, False, False],
    ]


@pytest.mark.parametrize(("vocabulary", "padding"), [(6, None), (0, None), (0, 0)])
def test_where_nothing_is_padded_there_are_no_lengths(vocabulary: int, padding: int | None) -> None:
    reader = SequenceInput((5,), vocabulary, padding, width=3)
    assert reader.lengths(TOKENS) is None
    assert reader.mask(TOKENS) is None


def test_series_stay_as_they_are() -> None:
    reader = SequenceInput((7, 2), vocabulary=0, padding=None, width=3)
    x = torch.randn(4, 7, 2)
    assert (reader.steps, reader.features) == (7, 2)
    assert torch.equal(reader(x), x)


def test_pictures_are_read_column_by_column() -> None:
    reader = SequenceInput((2, 3, 5), vocabulary=0, padding=None, width=8)
    x = torch.randn(4, 2, 3, 5)
    steps = reader(x)
    assert (reader.steps, reader.features) == (5, 6)
    assert torch.equal(steps[1, 2], x[1, :, :, 2].flatten())


def test_a_row_is_one_value_a_step() -> None:
    reader = SequenceInput((6,), vocabulary=0, padding=None, width=8)
    x = torch.randn(4, 6)
    assert (reader.steps, reader.features) == (6, 1)
    assert torch.equal(reader(x)[..., 0], x)


@pytest.mark.parametrize(
    ("in_shape", "vocabulary", "width"),
    [((5,), 6, 0), ((), 0, 4), ((2, 0), 0, 4), ((1, 2, 3, 4), 0, 4), ((5, 2), 6, 4)],
)
def test_what_is_no_sequence_is_refused(in_shape: tuple[int, ...], vocabulary: int, width: int) -> None:
    with pytest.raises(ConfigError, match="model"):
        SequenceInput(in_shape, vocabulary, None, width)


def test_lookup_under_vmap_has_the_gradient_of_each_table_alone() -> None:
    readers = [SequenceInput((5,), 6, 0, 3) for _ in range(2)]
    weight = torch.randn(3, 5, 3)
    parameters, _ = stack_module_state(readers)  # type: ignore[arg-type]

    def total(tables: dict[str, torch.Tensor]) -> torch.Tensor:
        vectors: torch.Tensor = functional_call(readers[0], (tables,), (TOKENS,))
        return (vectors * weight).sum()

    vmap(total)(parameters).sum().backward()
    for lane, reader in enumerate(readers):
        (reader(TOKENS) * weight).sum().backward()
        mine = parameters["table.weight"].grad[lane]  # type: ignore[index]
        torch.testing.assert_close(mine, reader.table.weight.grad)  # type: ignore[union-attr]
        assert not mine[0].any()  # the padding's


def test_runs_without_numbers() -> None:
    with torch.device("meta"):
        reader = SequenceInput((5,), vocabulary=6, padding=0, width=3)
        tokens = torch.zeros(2, 5, dtype=torch.int64)
        assert reader(tokens).shape == (2, 5, 3)
        assert reader.lengths(tokens).shape == (2,)  # type: ignore[union-attr]
