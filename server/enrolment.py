"""How the operator answers who wants to become a site: invitations, confirmations, and certificates in time.

    invite   a token, for one name and one key
    confirm  the fingerprint was compared: register the node, pin its rows, sign its certificate
    refuse   a no

`server.federation.dismiss` ends it: the site comes in no more, and its certificate is not renewed.

The key of the federation's authority is read here alone, in the operator's own processes; the gateway, which
strangers talk to, writes requests into the state database and reads the answers there. Each act may be cut
off at any moment and done again.

A site that waits may ask again and state other rows, or another card. So what was shown to the operator is
noted in the server's folder, by its SHA-256, and nothing else is confirmed.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, cast

from contract.enrolment import Token
from contract.errors import AddressError, InputError, StorageError, TidegateError
from contract.whole_file import replace_file
from server.federation import admit, running_federation
from server.line.certificates import (
    ServerFiles,
    authority_fingerprint,
    ending,
    make_server_files,
    server_files,
    sign_site,
)
from server.line.flower import ControlClient
from server.server_file import ServerFile, read_server_file, server_file
from server.settings import ServerSettings
from server.state.enrolments import Enrolments
from server.state.records import Enrolment
from server.state.storage import State, open_known_state, open_state

__all__ = ["Looker", "Upkeep", "confirm", "invite", "make_server", "note_shown", "refuse", "waiting"]

_LEAST = 16
"""Characters of a fingerprint that are compared at least: 96 bits."""
Looker = Literal["person", "program"]
"""Who looks, and confirms what they have seen: the operator; or a program, by `--json`."""
_SHOWN: dict[Looker, str] = {"person": "requests-shown.json", "program": "requests-read.json"}
"""In the server's folder: the SHA-256 of what each site asked for at that look."""
_HOUR, _DAY = 3600.0, 86_400.0
_FILE = """\
# How others reach this server. `tidegate server up` reads it when it starts.

# Names and addresses by which sites and people know this machine. The server's certificate is for these, and
# the first one stands in the tokens that sites are invited with.
hosts = [{hosts}]

# The address to listen at: 0.0.0.0 (or ::) is all of this machine's.
listen = "{listen}"

# Sites come in here (mutual TLS).
gateway_port = {gateway_port}

# People come in here.
api_port = {api_port}

# How many reviewers must approve a model version before it goes into service: 0, 1 or 2.
approvals = {approvals}
"""


def make_server(home: Path, file: ServerFile) -> Path:
    """Write server.toml and make the federation's authority and the server's certificate; return its path.

    Raises:
        InputError: there is a server.toml already, or the folder cannot be written.
    """
    path = server_file(home)
    try:
        if path.exists():
            raise InputError(
                "there is a server already",
                where=str(path),
                remedy="Edit it; `tidegate server up` then makes a certificate for other hosts",
            )
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        make_server_files(home / "certificates", file.names)
        hosts = ", ".join(f'"{host}"' for host in file.hosts)
        # last, and whole: what was cut off can be done again
        replace_file(path, _FILE.format(**{**file.model_dump(), "hosts": hosts}).encode())
    except OSError as exc:
        raise InputError(
            f"no server can be made there: {exc.strerror}",
            where=str(exc.filename or home),
            remedy="Set TIDEGATE_HOME to a folder that this user may write to, on a disk with room",
        ) from exc
    return path


def invite(name: str, settings: ServerSettings, valid: timedelta) -> tuple[str, datetime]:
    """A token with which a site of this name may ask to be let in, and until when; an older one is void then.

    Raises:
        InputError: a site of that name is admitted; or this server has no gateway.
    """
    file = read_server_file(settings.home)
    if file is None:
        raise InputError(
            "this server stands for its own machine alone: sites elsewhere cannot reach it",
            where=str(settings.home),
            remedy="`tidegate server init HOST` opens a gateway for them",
        )
    token, now = Token.make(file.gateway, _authority(settings)), datetime.now(UTC)
    written, federation = token.written(), running_federation(settings)
    with open_state(settings.state_url) as state:
        if any(site.name == name for site in state.admitted_sites(federation)):
            raise InputError(
                f"site '{name}' is let in already",
                where="NAME",
                remedy=f"If it comes with a new key: tidegate server revoke '{name}', and invite it then",
            )
        enrolments = Enrolments(state.database, federation)
        enrolments.invite(name, secret=token.digest, now=now, expires=now + valid)
    return written, now + valid


def _authority(settings: ServerSettings) -> bytes:
    path = server_files(settings.home / "certificates").authority
    try:
        return authority_fingerprint(path.read_bytes())
    except (OSError, ValueError) as exc:
        words = exc.strerror if isinstance(exc, OSError) else "it is no certificate"
        once = "" if path.exists() else ", or start `tidegate server up` once to have one made"
        raise AddressError(
            f"the federation's authority cannot be read: {words}",
            where=str(path),
            remedy=f"Put it back from the backup{once}",
        ) from exc


def waiting(settings: ServerSettings, state: State) -> tuple[Enrolment, ...]:
    """Who waits for the operator's answer, the longest first."""
    return Enrolments(state.database, running_federation(settings)).all("requested")


def note_shown(settings: ServerSettings, requests: Sequence[Enrolment], *, to: Looker) -> None:
    """Note that these requests were shown as they are, and no others.

    Raises:
        StorageError: that cannot be written into the server's folder.
    """
    path = settings.home / _SHOWN[to]
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(path, json.dumps({one.name: _digest(one) for one in requests}).encode())
    except OSError as exc:
        raise StorageError(
            f"what was shown cannot be noted: {exc.strerror}",
            where=str(path),
            remedy="Make the server's folder writable for this user, on a disk with room",
        ) from exc


def confirm(
    name: str,
    fingerprint: str,
    control: ControlClient,
    settings: ServerSettings,
    stated_rows: int | None = None,
    *,
    by: Looker = "person",
    agrees: Callable[[Enrolment], bool] = lambda _asked: False,
) -> Enrolment:
    """Let a site in whose key's fingerprint its administrator has read out; what it had asked for.

    It is let in with the rows and the card that whoever confirms was shown (`note_shown`), and no others.

    Args:
        name: the site's.
        fingerprint: as it was read out: whole, or at least its first 16 characters after `SHA256:`.
        control: of the SuperLink.
        settings: name the state database and the federation's folder.
        stated_rows: the rows that it must state; None for those that it asked with.
        by: who confirms.
        agrees: asked about a request that was not shown as it is now.

    Raises:
        InputError: it asked for nothing, was answered already, its key has another fingerprint, or it asks
            for something that was not shown.
        AddressError: the key of the federation's authority is not here.
    """
    federation = running_federation(settings)
    with open_known_state(settings.state_url) as state:
        enrolments = Enrolments(state.database, federation)
        asked = _asked(enrolments, name)
        _compare(asked, fingerprint)
        _require_shown(asked, settings.home / _SHOWN[by], agrees)
        certificate = _sign(server_files(settings.home / "certificates"), asked)
        _admit(asked, control, settings, state, stated_rows or asked.stated_rows)
        if not enrolments.confirm(asked, certificate, now=datetime.now(UTC)):
            raise InputError(
                f"what '{name}' asked for has changed meanwhile",
                where="NAME",
                remedy="Look again: tidegate server requests",
            )
    return asked


def _digest(asked: Enrolment) -> str:
    """Of all that is confirmed with a request."""
    what = (asked.federation, asked.name, asked.public_key, asked.stated_rows, asked.card)
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _require_shown(asked: Enrolment, marks: Path, agrees: Callable[[Enrolment], bool]) -> None:
    try:
        shown = json.loads(marks.read_bytes())
    except (OSError, ValueError):
        shown = {}
    known = shown.get(asked.name) if isinstance(shown, dict) else None
    if known == _digest(asked) or agrees(asked):
        return
    what = "was not shown to you" if known is None else "is not what it was when you looked"
    raise InputError(
        f"what '{asked.name}' asks for {what}",
        where="NAME",
        remedy="Look at its stated rows and card: tidegate server requests. Then confirm it",
    )


def refuse(name: str, settings: ServerSettings) -> None:
    """Answer a request with a no.

    Raises:
        InputError: it asked for nothing, or was answered already.
    """
    with open_known_state(settings.state_url) as state:
        enrolments = Enrolments(state.database, running_federation(settings))
        enrolments.refuse(_asked(enrolments, name), now=datetime.now(UTC))


def _asked(enrolments: Enrolments, name: str) -> Enrolment:
    asked = enrolments.get(name)
    if asked is None:
        names = [one.name for one in enrolments.all("requested")]
        raise InputError(
            f"no site '{name}' has asked to be let in",
            where="NAME",
            remedy=f"There wait: {', '.join(names)}" if names else "`tidegate server invite` makes a token",
        )
    if asked.state != "requested":
        raise InputError(
            f"'{name}' was answered already: {asked.state}",
            where="NAME",
            remedy=f"To begin anew: tidegate server invite '{name}'",
        )
    return asked


def _compare(asked: Enrolment, given: str) -> None:
    """A fingerprint tells a key only if it is compared with what the other end reads out."""
    said, is_of = given.removeprefix("SHA256:"), asked.fingerprint.removeprefix("SHA256:")
    if re.fullmatch(r"[A-Za-z0-9+/]{16,43}", said) is None:
        raise InputError(
            f"a fingerprint is compared by {_LEAST} characters at least",
            where="FINGERPRINT",
            remedy="Give what `tidegate site join` shows at the site: SHA256:… , whole or its beginning",
        )
    if not is_of.startswith(said):
        raise InputError(
            f"the key that asks as '{asked.name}' has another fingerprint: {asked.fingerprint}",
            where="FINGERPRINT",
            remedy="Have it read out again, letter by letter. If it differs, somebody else has used the "
            f"token: tidegate server refuse '{asked.name}', and invite the site anew",
        )


def _admit(
    asked: Enrolment, control: ControlClient, settings: ServerSettings, state: State, rows: int
) -> None:
    """As `tidegate server admit` does with the site's node.pub; an act that was cut off may have done it."""
    with tempfile.TemporaryDirectory() as folder:
        public = Path(folder) / "node.pub"
        public.write_text(asked.public_key, encoding="ascii")
        known = {site.name: site.key for site in state.admitted_sites(asked.federation)}
        if known.get(asked.name) == hashlib.sha256(public.read_bytes()).hexdigest():
            state.readmit_site(asked.name, federation=asked.federation, stated_rows=rows)
            return
        try:
            admit(asked.name, public, control, settings, asked.federation, rows)
        except InputError as exc:
            raise InputError(exc.what, where=f"the key of '{asked.name}'", remedy=exc.remedy) from exc


def _sign(files: ServerFiles, asked: Enrolment) -> str:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    key = cast(EllipticCurvePublicKey, load_ssh_public_key(asked.public_key.encode("ascii")))
    return sign_site(files, asked.name, key).decode("ascii")


@dataclass(kw_only=True)
class Upkeep:
    """Keeps the certificates of a server that runs in time: its own, and those of its sites.

    Attributes:
        state: the server's.
        federation: whose sites.
        home: the server's folder.
        hosts: that the server's certificate is for.
        say: tells the operator something.
    """

    state: State
    federation: str
    home: Path
    hosts: tuple[str, ...]
    say: Callable[[str], None]
    _looked: float = field(default=-_DAY)
    _said: dict[str, float] = field(default_factory=dict)

    def look(self) -> None:
        """Sign what sites wait for; once an hour, renew the server's own and say what cannot be."""
        files = server_files(self.home / "certificates")
        with suppress(StorageError):  # a full disk, say: the next look does it
            self._sign(files)
        if time.monotonic() - self._looked >= _HOUR:
            self._looked = time.monotonic()
            try:
                make_server_files(self.home / "certificates", self.hosts)
            except (TidegateError, OSError) as exc:
                self._say_once_a_day(f"the server's certificate cannot be renewed: {exc}")
            for sentence in ending(files):
                self._say_once_a_day(sentence)

    def _sign(self, files: ServerFiles) -> None:
        enrolments = Enrolments(self.state.database, self.federation)
        for asked in enrolments.all("confirmed"):
            if asked.renewal_asked is None:
                continue
            try:
                certificate = _sign(files, asked)
            except AddressError as exc:
                self._say_once_a_day(f"the certificate of site '{asked.name}' cannot be renewed: {exc}")
                continue
            if enrolments.renew(asked, certificate):
                self.say(f"the certificate of site '{asked.name}' was renewed")

    def _say_once_a_day(self, sentence: str) -> None:
        if time.monotonic() - self._said.get(sentence, -_DAY) >= _DAY:
            self._said[sentence] = time.monotonic()
            self.say(sentence)
