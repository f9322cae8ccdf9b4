"""How ε and δ are written for a person: everywhere by these functions, so that no two pages differ.

A bound must not read smaller than it is, and what is left must not read larger: together they never
exceed the cap on the page.
"""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

__all__ = ["delta_words", "epsilon_words", "left_words"]

_STEP, _LARGE = Decimal("0.01"), 1e15


def epsilon_words(value: float | None, step: Decimal = _STEP) -> str:
    """Rounded up, but for the arithmetic's own last digits; infinity, and JSON's null for it, as `∞`.

    Args:
        value: ε.
        step: to a multiple of which it is rounded; finer beside a bound that is stated finer.

    >>> epsilon_words(3.2201), epsilon_words(2.0000000001), epsilon_words(None)
    ('3.23', '2.00', '∞')
    >>> epsilon_words(0.4104, Decimal("0.001"))
    '0.411'
    """
    return "∞" if value is None or not math.isfinite(value) else str(_up(value, step))


def left_words(cap: float, promised: float) -> str:
    """What is left under the cap, rounded down beside what `epsilon_words` says is promised.

    >>> left_words(8.0, 1.7049), left_words(8.0, 9.0), left_words(8.0, float("inf"))
    ('6.29', '0.00', '0.00')
    """
    if not math.isfinite(promised):
        return "0.00"
    left = Decimal(str(round(cap, 9))) - _up(promised)
    return str(max(left, Decimal(0)).quantize(_STEP, ROUND_FLOOR))


def delta_words(delta: float) -> str:
    """As a power of ten, so that two of them compare at a glance.

    >>> delta_words(1e-4), delta_words(2.5e-6)
    ('1e-4', '2.5e-6')
    """
    digits, _, exponent = f"{delta:.2e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


def _up(value: float, step: Decimal = _STEP) -> Decimal:
    if value >= _LARGE:
        return Decimal(math.ceil(value))
    return Decimal(str(round(value, 9))).quantize(step, ROUND_CEILING)
