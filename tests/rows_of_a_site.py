"""Small sites with rows for tests: a card, a site's configuration, and rows as a source holds them."""

from __future__ import annotations

from typing import Any

import pandas as pd

from clients.rows.rows import Rows, rows_of
from clients.site_config import DataSource, SiteConfig
from contract.card import Card

__all__ = ["KEY", "card_of", "numeric", "one_of", "rows", "site"]

KEY = bytes(range(32))


def numeric(name: str, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    """A numeric column of a card."""
    return {"name": name, "kind": "numeric", "low": low, "high": high}


def one_of(name: str, *categories: str) -> dict[str, Any]:
    """A categorical column of a card."""
    return {"name": name, "kind": "categorical", "categories": categories}


def card_of(*columns: dict[str, Any], **more: Any) -> Card:
    """A card of these columns."""
    return Card.model_validate({"columns": columns, **more})


def site(card: Card | None = None, **data: Any) -> SiteConfig:
    """A site called `north`."""
    return SiteConfig(name="north", stated_rows=3, data=DataSource(**data), card=card)


def rows(raw: pd.DataFrame, card: Card, **data: Any) -> Rows:
    """The rows of a frame whose values are as a source holds them."""
    return rows_of(raw, card, source=DataSource(**{"kind": "csv", "path": "x", **data}), key=KEY)
