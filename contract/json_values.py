"""What JSON can hold."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["finite"]


def finite(value: Any) -> Any:
    """The value with every number that is not finite as None: JSON knows no NaN and no infinity.

    >>> finite({"epsilon": float("inf"), "edges": (1.5, float("nan"))})
    {'epsilon': None, 'edges': [1.5, None]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
