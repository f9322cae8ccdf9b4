"""A site's public card as a statement that the site signs and anybody can check.

What is signed is the site's name, its stated rows and its card, as canonical JSON (RFC 8785) in
a DSSE envelope (`contract.envelope`). Everything in it is public.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clients.keys import PrivateKey, PublicKey, read_bytes
from contract.card import Card
from contract.envelope import sign, verify
from contract.errors import InputError
from contract.names import SiteName

__all__ = ["CARD_TYPE", "PublicCard", "read_signed_card", "signed_card"]

CARD_TYPE = "application/vnd.tidegate.card+json"
"""The kind of the signed statement."""


class PublicCard(BaseModel):
    """What a site tells the world.

    Attributes:
        site: its public name.
        stated_rows: the rough number of its training rows, stated and never counted.
        card: what it offers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    site: SiteName
    stated_rows: Annotated[int, Field(ge=1, le=10**12)]
    card: Card

    @property
    def canonical(self) -> bytes:
        """Canonical JSON: equal for equal cards."""
        import rfc8785

        return rfc8785.dumps(self.model_dump(mode="json"))


def signed_card(public: PublicCard, key: PrivateKey) -> dict[str, Any]:
    """The card in an envelope that the site's key has signed."""
    return sign(CARD_TYPE, public.canonical, key)


def read_signed_card(path: Path, key: PublicKey) -> PublicCard:
    """The card in a file that `tidegate site card --sign` wrote, if this key signed it.

    Raises:
        InputError: the file is missing or is no signed card, or another key signed it.
    """
    remedy = "Name a file that `tidegate site card SITE.toml --sign FILE` wrote"
    content = read_bytes(path, remedy=remedy)
    try:
        envelope = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise InputError("not JSON", where=str(path), remedy=remedy) from exc
    try:
        payload = verify(envelope, key)
    except InputError as exc:
        raise InputError(exc.what, where=str(path), remedy=exc.remedy) from exc
    if envelope["payloadType"] != CARD_TYPE:
        raise InputError("signed, but not as a card", where=str(path), remedy=remedy)
    try:
        return PublicCard.model_validate_json(payload)
    except ValidationError as exc:
        raise InputError(
            "signed, but not a card that this version knows", where=str(path), remedy="Ask the site for one"
        ) from exc
