"""Long measurements in pieces, between which whoever asked for them may break them off.

A measurement may be a few seconds of batches or minutes of sampling behind the last one. The task alone knows where its
work can be cut, and only the caller knows whether it is still wanted. So the task runs its loops through ``pieces``,
however deep they lie, and the caller measures inside ``looking``; outside of it ``pieces`` only passes the items on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
Look = Callable[[], None]


def _go_on() -> None:
    """Nobody asked to be heard."""


_look: ContextVar[Look] = ContextVar("look", default=_go_on)


@contextmanager
def looking(look: Look) -> Iterator[None]:
    """Call ``look`` between the pieces of what is done inside; it raises to break the work off."""
    before = _look.set(look)
    try:
        yield
    finally:
        _look.reset(before)


def pieces(items: Iterable[T]) -> Iterator[T]:
    """The items, with a look before each: under a microsecond, so an item may be as small as one operator.

    The processes of a run look together: all of them must have equally many items.
    """
    for item in items:
        _look.get()()
        yield item
