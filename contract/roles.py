"""What a person may do at a server. Light to import: commands name it."""

from __future__ import annotations

from typing import Literal

__all__ = ["Role"]

Role = Literal["scientist", "operator", "reviewer"]
