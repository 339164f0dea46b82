"""One buffer for all parameters of all lanes: views write through, gather is the inverse."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrun.packing.flat import Layout

SHAPES = [(3, 2), (), (4,), (2, 1, 3), (0, 5)]
SHAPE = st.lists(st.integers(0, 3), max_size=4).map(tuple)


def test_parameters_lie_one_after_another() -> None:
    layout = Layout(SHAPES)
    assert layout.sizes == (6, 1, 4, 6, 0)
    assert layout.offsets == (0, 6, 7, 11, 17)
    assert layout.size == 17


def test_the_layout_of_tensors() -> None:
    assert Layout.of([torch.zeros(shape) for shape in SHAPES]).shapes == tuple(SHAPES)


def test_views_look_into_the_buffer() -> None:
    layout, buffer = Layout(SHAPES), torch.arange(34.0).view(2, 17)
    views = layout.views(buffer)
    assert [view.shape for view in views] == [(2, *shape) for shape in SHAPES]
    assert views[0][1, 2].tolist() == [21.0, 22.0]
    assert views[1].tolist() == [6.0, 23.0]
    views[2].zero_()
    assert buffer[:, 7:11].abs().sum() == 0


def test_lane_views_look_into_their_row() -> None:
    layout, buffer = Layout(SHAPES), torch.zeros(3, 17)
    for view, shape in zip(layout.lane_views(buffer, 1), SHAPES, strict=True):
        assert view.shape == shape
        assert view.is_contiguous()
        view.fill_(1.0)
    assert buffer.sum(1).tolist() == [0.0, 17.0, 0.0]


@settings(max_examples=30, deadline=None)
@given(st.lists(SHAPE, min_size=1, max_size=5), st.integers(1, 3))
def test_gather_is_the_inverse_of_views(shapes: list[tuple[int, ...]], lanes: int) -> None:
    layout = Layout(shapes)
    buffer = torch.rand(lanes, layout.size)
    assert torch.equal(layout.gather(layout.views(buffer)), buffer)


def test_gather_into_a_buffer() -> None:
    layout, out = Layout(SHAPES), torch.zeros(2, 17)
    tensors = [torch.rand(2, *shape).transpose(-1, -2).clone().transpose(-1, -2) for shape in SHAPES if len(shape) > 1]
    layout = Layout(shape for shape in SHAPES if len(shape) > 1)
    result = layout.gather(tensors, out=out[:, : layout.size].clone())
    for view, tensor in zip(layout.views(result), tensors, strict=True):
        assert torch.equal(view, tensor)


def test_gather_writes_to_out_itself() -> None:
    layout, out = Layout([(2,), ()]), torch.zeros(2, 3)
    layout.gather([torch.ones(2, 2), torch.full((2,), 2.0)], out=out)
    assert out.tolist() == [[1.0, 1.0, 2.0]] * 2


def test_another_width_is_no_buffer() -> None:
    with pytest.raises(RuntimeError):
        Layout([(4, 2)]).views(torch.zeros(2, 5))
