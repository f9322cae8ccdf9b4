"""`tidegate site join`: from an operator's token to a site that is let in; and how it stands since."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clients.cli.ledger import Json

if TYPE_CHECKING:
    import threading

    from cryptography.x509 import Certificate

    from clients.line.enrolment import Joined, JoiningSite
    from contract.card import Card

__all__ = ["Standing", "Way", "join", "standing", "way_for"]

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 10.0
"""Seconds between two questions whether the operator has answered."""
_SOON = datetime.timedelta(days=30)


def join(
    token: Annotated[
        str,
        typer.Argument(help="From the federation's operator; with - it is read from standard input."),
    ],
    site: Annotated[Path, typer.Option(help="The site's site.toml.")] = Path("site.toml"),
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for the operator's confirmation.")
    ] = 3600.0,
    without_card: Annotated[
        bool, typer.Option("--without-card", help="Keep the card here: the federation reads nothing of it.")
    ] = False,
    json: Json = False,
) -> None:
    """Ask a federation to let this site in, and wait until its operator has confirmed the site's key."""
    import sys

    from clients.keys import fingerprint, read_private_key
    from clients.line.enrolment import JoiningSite
    from clients.site_config import read_site_config
    from contract.enrolment import Token
    from contract.errors import TidegateError
    from contract.outside import shown
    from terminal.output import console, errors, print_json

    read = Token.read(sys.stdin.readline() if token == "-" else token)  # noqa: S105 - the argument's word
    config, keys = read_site_config(site), site.parent / "keys"
    key = read_private_key(keys / "node.key")
    card = None if config.is_draft or without_card else config.card
    asking = JoiningSite(
        token=read, name=config.name, key=key, stated_rows=config.stated_rows, card=card, keys=keys
    )
    facts = {"site": config.name, "gateway": read.gateway, "fingerprint": fingerprint(key.public_key())}

    def tell(sentence: str) -> None:
        (errors if json else console).print(shown(sentence, limit=1000), soft_wrap=True)

    tell(f"asking {read.gateway} to let '{config.name}' in, stating {config.stated_rows:,} rows")
    authority, certificate = _answered(
        asking, wait, _first_words(card, without_card, facts["fingerprint"]), tell
    )
    if certificate is None:
        if json:
            print_json({**facts, "state": "waiting"})
        raise TidegateError(
            "the operator has not confirmed the site yet",
            where=read.gateway,
            remedy="Read the fingerprint out to the operator; the same command then goes on",
        )
    own = asking.own(authority, certificate)  # before anything changes for a federation that gives another's
    if ended := end_approvals_of_another(site, authority):
        tell(f"approved for the federation of before, and asked again for this one: {', '.join(ended)}")
    asking.keep(authority, own)
    stands = standing(site)
    if json:
        print_json({**facts, "state": "joined", **({} if stands is None else stands.as_dict())})
        return
    tell(f"'{config.name}' is let in. Start its agent: tidegate site up {site}")


def end_approvals_of_another(file: Path, authority: Certificate) -> tuple[str, ...]:
    """End what was approved while the site was one of another federation; the names of these experiments.

    An approval says who may spend what: it was given for what one operator's server asks. Each may ask again.

    Args:
        file: the site's site.toml.
        authority: of the federation that lets the site in now.

    Raises:
        LedgerError: the ledger cannot be opened or trusted.
    """
    from cryptography.hazmat.primitives.hashes import SHA256

    from clients.mandates import authority_of
    from clients.site import open_site

    before = file.parent / "keys" / "ca.pem"
    if not before.exists() or authority_of(before.read_bytes()) == authority.fingerprint(SHA256()).hex():
        return ()
    ledger = open_site(file).ledger
    approved, _ = ledger.approvals()
    names = {one.terms.experiment: one.terms.name for one in approved}
    for digest in names:
        ledger.revoke(digest, reason="the site joins another federation")
        ledger.reopen(digest)
    return tuple(names.values())


def _first_words(card: Card | None, without_card: bool, fingerprint: str) -> tuple[str, ...]:
    words = "with its card" if card is not None else "without a card"
    if card is None and not without_card:
        words = f"{words}: the site has none yet, or a draft, and answers nobody until it has one"
    return (
        f"asked, {words}",
        f"fingerprint of the site's key: {fingerprint}",
        "Call the federation's operator, at a number that you have from elsewhere, and read it out. "
        "Waiting for the confirmation; after Ctrl-C the same command goes on.",
    )


def _answered(
    asking: JoiningSite, wait: float, words: tuple[str, ...], tell: Callable[[str], None]
) -> tuple[Certificate, str | None]:
    """The authority, and the site's certificate; None for this if there was no answer in time.

    Raises:
        RefusedError: the answer is no.
    """
    import time

    from clients.line.enrolment import NotNowError, RefusedError

    end, pause = time.monotonic() + wait, _FIRST_PAUSE
    authority, asked = None, False
    while True:
        try:
            if authority is None:
                authority = asking.authority()
            answer = asking.collect(authority) if asked else asking.ask(authority)
            if not asked:
                asked = True
                for sentence in words:
                    tell(sentence)
            if answer.state == "refused":
                raise RefusedError(
                    "the federation's operator has refused this site",
                    where=asking.token.gateway,
                    remedy="Ask why; it takes a new token to try again",
                )
            if answer.certificate is not None:
                return authority, answer.certificate
        except NotNowError as exc:
            if authority is None or not asked:
                if time.monotonic() >= end:
                    raise
                tell(f"{exc} Trying again.")
        left = end - time.monotonic()
        if left <= 0 and authority is not None:
            return authority, None
        time.sleep(max(0.0, min(pause, left)))
        pause = min(1.5 * pause, _LONGEST_PAUSE)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a site stands in the federation that it has joined.

    Attributes:
        federation: where its gateway is, and so on.
        until: when the site's certificate ends.
    """

    federation: Joined
    until: datetime.datetime

    @property
    def _left(self) -> datetime.timedelta:
        return self.until - datetime.datetime.now(datetime.UTC)

    @property
    def has_ended(self) -> bool:
        """Whether the certificate is of no use any more."""
        return self._left <= datetime.timedelta()

    @property
    def words(self) -> str:
        """In a sentence."""
        until = f"{'ended' if self.has_ended else 'is valid until'} {self.until:%Y-%m-%d}"
        return (
            f"joined at {self.federation.gateway} as '{self.federation.name}'; the site's certificate {until}"
        )

    @property
    def remedy(self) -> str:
        """What to do about it; empty if nothing is to be done."""
        if self.has_ended:
            return "Ask the operator for a new token, and `tidegate site join` with it."
        if self._left < _SOON:
            return "The agent has not renewed it: read its log, and see that it runs."
        return ""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "gateway": self.federation.gateway,
            "name": self.federation.name,
            "valid_until": self.until.isoformat(),
        }


def standing(file: Path) -> Standing | None:
    """How the site stands in its federation; None if it has joined none.

    Raises:
        InputError: what `tidegate site join` wrote is damaged, or gone.
    """
    from clients.line.enrolment import joined

    federation = joined(file)
    if federation is None:
        return None
    return Standing(federation=federation, until=federation.shows.not_valid_after_utc)


@dataclass(frozen=True, kw_only=True)
class Way:
    """How an agent reaches its server.

    Attributes:
        superlink: host:port.
        authority: the file with the authority that signed the server's certificate.
        federation: that the site has joined; None for a server without gateway.
    """

    superlink: str
    authority: Path
    federation: Joined | None = None

    @property
    def certificate(self) -> Path | None:
        """The file with what the site shows there."""
        return None if self.federation is None else self.federation.certificate

    @property
    def authority_digest(self) -> str:
        """What a mandate calls the authority; empty where the file holds more than one certificate.

        Raises:
            InputError: the file cannot be read, or holds none.
        """
        from clients.line.reach import authority_at
        from clients.mandates import authority_of

        return authority_of(authority_at(self.authority))

    def require(self, name: str, key: Path) -> None:
        """See that the files are there, and for this site.

        Args:
            name: the site's.
            key: the file of its node key.

        Raises:
            InputError: they are not.
        """
        from clients.keys import read_private_key
        from clients.line.reach import authority_at

        authority_at(self.authority)
        private = read_private_key(key)
        if self.federation is not None:
            _ = self.federation.require(name).require_key(private).tls

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Where the server does not let the site in, say so if the operator has revoked it.

        Raises:
            RefusedError: the operator has.
        """
        from clients.line.enrolment import RefusedError, require_admitted
        from contract.errors import AddressError, TidegateError

        try:
            yield
        except AddressError as refused:
            try:
                if self.federation is not None:
                    require_admitted(self.federation)
            except RefusedError as exc:
                raise exc from refused
            except TidegateError:
                raise refused from None  # nothing more is known
            raise

    def renew_beside(self, key: Path, stop: threading.Event) -> None:
        """Keep the site's certificate in time, in a thread, until `stop` is set."""
        import threading
        from functools import partial

        from clients.line.enrolment import renew_on
        from clients.line.flower import show_renewed

        if self.federation is not None:
            renewed = partial(show_renewed, self.federation.certificate)
            renewal = partial(renew_on, self.federation, key, stop, renewed)
            threading.Thread(target=renewal, name="renewal", daemon=True).start()


def way_for(file: Path, superlink: str | None, authority: Path | None) -> Way:
    """The way to the federation that the site has joined, or to a server that is named and has no gateway.

    Raises:
        InputError: half of that server is named; or none, and the site has joined no federation.
    """
    from clients.line.enrolment import joined
    from contract.errors import InputError

    if superlink is not None and authority is not None:
        return Way(superlink=superlink, authority=authority)
    if superlink is not None or authority is not None:
        raise InputError(
            "--superlink and --root-certificates go together",
            where="site up",
            remedy="Give both; or neither, for the federation that the site has joined",
        )
    federation = joined(file)
    if federation is None:
        raise InputError(
            "the site has joined no federation",
            where=str(file),
            remedy="`tidegate site join TOKEN`, with the token that the operator gives; or name a server "
            "with --superlink and --root-certificates",
        )
    return Way(superlink=federation.gateway, authority=federation.authority, federation=federation)
