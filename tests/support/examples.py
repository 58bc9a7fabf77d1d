"""How many examples a property is tried with."""

from typing import Final

from hypothesis import settings

OF_A_RUN: Final = 60
"""Those of the profile that a run of the tests has (tests/conftest.py)."""


def examples(count: int) -> int:
    """`count` in a run of the tests; with HYPOTHESIS_PROFILE=long as many times more as that profile has more."""
    return max(1, count * settings().max_examples // OF_A_RUN)
