"""Layers: how long the request at hand was in each layer of the server, where somebody counts that.

Pure: what time it is, is passed in.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Layers:
    """The seconds that a request was in each layer. `now` is the wall clock."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.now = now
        self.seconds: dict[str, float] = {}


AT_HAND: ContextVar[Layers | None] = ContextVar("layers", default=None)
"""Those of the request at hand; None: nobody counts them."""


@contextmanager
def within(layer: str, *, side_by_side: bool = False) -> Iterator[None]:
    """What is done inside is of this layer. `side_by_side`: with others of its kind, of which the longest counts."""
    layers = AT_HAND.get()
    if layers is None:
        yield
        return
    began = layers.now()
    try:
        yield
    finally:
        took, before = (layers.now() - began).total_seconds(), layers.seconds.get(layer, 0.0)
        layers.seconds[layer] = max(before, took) if side_by_side else before + took


def layered(layer: str) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[T]]]:
    """A coroutine function that is of a layer."""

    def decorate(function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        async def counted(*args: P.args, **kwargs: P.kwargs) -> T:
            with within(layer):
                return await function(*args, **kwargs)

        @functools.wraps(function)
        def begin(*args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
            return function(*args, **kwargs) if AT_HAND.get() is None else counted(*args, **kwargs)

        return begin

    return decorate
