"""Chance with few words.

Hypothesis draws a seed and sizes, which it shrinks, and dice throw all else: to draw each detail by hypothesis costs
many times what is tested.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

from hypothesis import strategies as st

SEEDS = st.integers(0, 2**32 - 1)
T = TypeVar("T")


class Dice(random.Random):
    def maybe(self) -> bool:
        return self.random() < 0.25

    def coin(self) -> bool:
        return self.random() < 0.5

    def few(self, make: Callable[[Dice], T], least: int, most: int) -> list[T]:
        return [make(self) for _ in range(self.randint(least, most))]
