"""Who may ask the gateway for what, and what it answers: asked over TLS, beside a real state database."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from contract.enrolment import REVOKED, Token, digest_of, key_fingerprint
from server.gateway import door, enrolment
from server.gateway.door import Door
from server.gateway.enrolment import TRIES, enrolment_app, openssh_of
from server.gateway.superlink import gateway_port
from server.line.certificates import ServerFiles, authority_fingerprint, make_server_files, sign_site
from server.server_file import ServerFile
from server.state.enrolments import Enrolments
from server.state.records import Enrolment
from server.state.storage import open_state
from tests.hostile import HOSTILE

Key = ec.EllipticCurvePrivateKey
CARD = {"columns": [{"name": "age", "kind": "numeric", "low": 0, "high": 120}]}


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def request_of(
    key: Any, name: str = "north", *, signs: Any = None, more: tuple[x509.NameAttribute, ...] = ()
) -> str:
    """A signing request; `signs` signs it in the key's place."""
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name), *more])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    if signs is None:
        return request.public_bytes(serialization.Encoding.PEM).decode()
    other = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(signs, hashes.SHA256())
    der = request.public_bytes(serialization.Encoding.DER)
    forged = der[: -len(request.signature)] + other.signature
    if len(other.signature) != len(request.signature):  # ECDSA's lengths differ by a byte or two: once more
        return request_of(key, name, signs=signs, more=more)
    return "-----BEGIN CERTIFICATE REQUEST-----\n" + ssl.DER_cert_to_PEM_cert(forged).split("\n", 1)[
        1
    ].replace("CERTIFICATE", "CERTIFICATE REQUEST")


def joining(token: Token, key: Key, name: str = "north", **more: Any) -> dict[str, Any]:
    asked = {
        "secret": token.secret,
        "signing_request": request_of(key, name),
        "stated_rows": 50,
        "card": None,
    }
    return {**asked, **more}


@dataclass
class Gateway:
    url: str
    files: ServerFiles
    enrolments: Enrolments

    def ask(self, what: str, content: Any, certificate: Path | None = None) -> httpx.Response:
        tls = ssl.create_default_context(cafile=str(self.files.authority))
        if certificate is not None:
            tls.load_cert_chain(certificate)
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        with httpx.Client(verify=tls, trust_env=False, timeout=300) as client:
            return client.post(f"{self.url}/v1/enrolment/{what}", content=text)

    def invite(self, name: str = "north", days: float = 7) -> Token:
        token = Token.make("127.0.0.1:1", authority_fingerprint(self.files.authority.read_bytes()))
        now = datetime.now(UTC)
        self.enrolments.invite(name, secret=token.digest, now=now, expires=now + timedelta(days=days))
        return token

    def asked(self, name: str = "north") -> Enrolment:
        found = self.enrolments.get(name)
        assert found is not None
        return found

    def confirm(self, key: Key, name: str = "north", ago: float = 0) -> bytes:
        began = datetime.now(UTC) - timedelta(days=ago)
        certificate = sign_site(self.files, name, key.public_key(), now=began)
        assert self.enrolments.confirm(self.asked(name), certificate.decode(), now=datetime.now(UTC))
        return certificate


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    listening = socket.socket()  # bound at once: a port that is only looked for may be another's by then
    listening.bind(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    file = ServerFile(hosts=("127.0.0.1",), listen="127.0.0.1", gateway_port=port)
    files = make_server_files(tmp_path / "certificates", file.names)
    with open_state(f"sqlite:///{tmp_path}/state.db") as state:
        enrolments = Enrolments(state.database, "standing")
        app = enrolment_app(enrolments, files.authority)
        server = uvicorn.Server(gateway_port(Door(app, app), file, files).config)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        end = time.monotonic() + 300
        while not server.started:
            assert thread.is_alive(), "the gateway ended as it started"
            assert time.monotonic() < end, "the gateway did not start within 300 s"
            time.sleep(0.01)
        yield Gateway(f"https://127.0.0.1:{file.gateway_port}", files, enrolments)
        server.should_exit = True
        thread.join(timeout=300)
        assert not thread.is_alive(), "the gateway did not stop within 300 s"


def pem_of(folder: Path, key: Key, certificate: bytes) -> Path:
    file = folder / f"{certificate[-60:-50].hex()}.pem"
    file.write_bytes(
        certificate
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return file


def test_who_is_invited_waits_and_collects(gateway: Gateway) -> None:
    said = gateway.ask("authority", {}).json()["authority"]
    token, key = gateway.invite(), new_key()
    assert authority_fingerprint(said.encode()) == token.authority
    waiting = {"state": "waiting", "certificate": None}
    assert gateway.ask("join", joining(token, key, card=CARD)).json() == waiting
    assert gateway.ask("collect", {"secret": token.secret}).json() == waiting
    asked = gateway.asked()
    assert (asked.state, asked.stated_rows, asked.rival) == ("requested", 50, None)
    assert asked.card is not None
    assert asked.card["columns"][0]["name"] == "age"
    assert asked.fingerprint == key_fingerprint(asked.public_key)
    assert asked.public_key == openssh_of(x509.load_pem_x509_csr(request_of(key).encode()))
    assert gateway.ask("join", joining(token, key, stated_rows=60)).json() == waiting  # it asks again
    assert gateway.asked().stated_rows == 60
    certificate = gateway.confirm(key).decode()
    for answer in (
        gateway.ask("collect", {"secret": token.secret}),
        gateway.ask("join", joining(token, key)),
    ):
        assert answer.json() == {"state": "confirmed", "certificate": certificate}
    gateway.ask("join", joining(token, key, stated_rows=10**12))
    assert gateway.asked().stated_rows == 60  # what was confirmed stays


def test_who_is_refused_hears_it(gateway: Gateway) -> None:
    token, key = gateway.invite(), new_key()
    gateway.ask("join", joining(token, key))
    assert gateway.enrolments.refuse(gateway.asked(), now=datetime.now(UTC))
    for answer in (
        gateway.ask("collect", {"secret": token.secret}),
        gateway.ask("join", joining(token, key)),
    ):
        assert answer.json() == {"state": "refused", "certificate": None}


def test_wrong_old_and_used_tokens_have_one_answer(gateway: Gateway) -> None:
    late, used, replaced = gateway.invite("late", days=-1), gateway.invite("used"), gateway.invite("replaced")
    gateway.invite("replaced")
    gateway.ask("join", joining(used, new_key(), "used"))
    unknown = Token.make("127.0.0.1:1", bytes(32))
    tried = [(late, "late"), (used, "used"), (replaced, "replaced"), (unknown, "unknown")]
    answers = [gateway.ask("join", joining(token, new_key(), name)) for token, name in tried]
    answers += [gateway.ask("collect", {"secret": token.secret}) for token in (late, replaced, unknown)]
    assert {(answer.status_code, answer.text) for answer in answers} == {(403, enrolment._WRONG)}
    assert [one.name for one in gateway.enrolments.all()] == ["used"]
    assert gateway.asked("used").rival is not None


def test_a_key_that_was_first_in_time_goes_on_after_it(gateway: Gateway) -> None:
    token, key = gateway.invite(days=1 / 86_400), new_key()
    assert gateway.ask("join", joining(token, key)).status_code == 200
    time.sleep(1.1)
    assert gateway.ask("join", joining(token, key)).status_code == 200
    assert gateway.ask("join", joining(token, new_key())).status_code == 403


def test_of_many_at_the_same_moment_one_is_first(gateway: Gateway) -> None:
    token, keys = gateway.invite(), [new_key() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda key: gateway.ask("join", joining(token, key)), keys))
    assert sorted(answer.status_code for answer in answers) == [200] + [403] * 7
    first = keys[[answer.status_code for answer in answers].index(200)]
    assert gateway.asked().fingerprint == key_fingerprint(
        first.public_key()
        .public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        .decode()
    )


def test_who_guesses_is_turned_away_and_who_was_invited_is_not(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    early, key = gateway.invite("early"), new_key()
    gateway.ask("join", joining(early, key, "early"))
    answers = [
        gateway.ask("collect", {"secret": f"{number:032x}"}).status_code for number in range(TRIES + 5)
    ]
    assert answers == [403] * TRIES + [429] * 5
    assert sum("a stranger was refused" in record.getMessage() for record in caplog.records) == TRIES
    late = gateway.invite("late")
    assert gateway.ask("collect", {"secret": early.secret}).status_code == 200
    time.sleep(1.1)  # an invitation that is new is looked for once a second
    assert gateway.ask("join", joining(late, new_key(), "late")).status_code == 200


def test_a_request_for_another_name_is_refused_in_words(gateway: Gateway) -> None:
    token, key = gateway.invite(), new_key()
    more = x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "a hospital")
    twice = x509.NameAttribute(x509.NameOID.COMMON_NAME, "south")
    wrong = [request_of(key, "south"), request_of(key, more=(more,)), request_of(key, more=(twice,))]
    for request in wrong:
        answer = gateway.ask("join", joining(token, key, signing_request=request))
        assert answer.status_code == 409
        assert "for a site named 'north'" in answer.text
    assert gateway.enrolments.all() == ()


def test_a_request_that_its_key_did_not_sign_is_none(gateway: Gateway) -> None:
    token, key, other = gateway.invite(), new_key(), new_key()
    forged = request_of(key, signs=other)
    assert not x509.load_pem_x509_csr(forged.encode()).is_signature_valid
    strange = rsa.generate_private_key(65537, 2048)
    small = ec.generate_private_key(ec.SECP256K1())
    requests = [forged, request_of(strange), request_of(small), "", "-----BEGIN CERTIFICATE REQUEST-----\n"]
    requests += [request_of(key)[:-80], gateway.files.authority.read_text()]
    for request in requests:
        answer = gateway.ask("join", joining(token, key, signing_request=request))
        assert answer.status_code == 400, request
        assert answer.text.startswith("not understood")
    assert gateway.enrolments.all() == ()
    assert gateway.ask("join", joining(token, key)).status_code == 200  # none of it has used the token


ODD = [
    b"",
    b"null",
    b"[]",
    b"\xff\xfe",
    b'{"secret": NaN}',
    b"[" * 60_000,
    {"secret": "0" * 31},
    {"secret": "0" * 32, "more": 1},
    {"secret": "0" * 33},
    {"secret": "0" * 31 + "\n"},
    {"secret": "G" * 32},
    {"secret": 7},
]
WRONG = [
    {"stated_rows": 0},
    {"stated_rows": -1},
    {"stated_rows": 10**13},
    {"stated_rows": 50.0},
    {"stated_rows": "50"},
    {"stated_rows": True},
    {"stated_rows": 10**4000},
    {"card": "a card"},
    {"card": {}},
    {"card": {**CARD, "draft": True}},
    {"card": {**CARD, "more": 1}},
    {"card": {"columns": []}},
    {"card": {"columns": [{"name": "a\x1b[2J", "kind": "numeric"}]}},
    {"card": {"columns": [{"name": HOSTILE[:200], "kind": "numeric"}]}},
    {"signing_request": None},
    {"signing_request": "\x1b[2J"},
    {"signing_request": "x" * 9000},
    {"site": "south"},
]


@pytest.mark.parametrize("content", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize("what", ["join", "collect", "renew", "authority"])
def test_odd_bodies_are_not_understood(gateway: Gateway, what: str, content: Any) -> None:
    answer = gateway.ask(what, content)
    empty = what in ("renew", "authority") and content == b""
    assert answer.status_code == ({"renew": 403, "authority": 200}[what] if empty else 400)
    assert empty or (answer.text.startswith("not understood") and len(answer.text) < 300)


@pytest.mark.parametrize("change", WRONG, ids=range(len(WRONG)))
def test_what_is_out_of_bounds_is_not_understood(gateway: Gateway, change: dict[str, Any]) -> None:
    token = gateway.invite()
    answer = gateway.ask("join", joining(token, new_key(), **change))
    assert answer.status_code == 400
    assert "\x1b" not in answer.text
    assert gateway.enrolments.all() == ()


def test_a_request_of_a_version_that_there_is_not_is_not_understood(gateway: Gateway) -> None:
    """A stranger had the library's own error, and an error 500, for one byte."""
    der = ssl.PEM_cert_to_DER_cert(request_of(new_key()).replace(" REQUEST", ""))
    at = der.index(b"\x02\x01\x00") + 2
    other = ssl.DER_cert_to_PEM_cert(der[:at] + b"\x07" + der[at + 1 :]).replace(
        "CERTIFICATE", "CERTIFICATE REQUEST"
    )
    answer = gateway.ask("join", joining(gateway.invite(), new_key(), signing_request=other))
    assert (answer.status_code, answer.text) == (400, "not understood: signing_request: no such request")


def test_a_body_that_does_not_come_in_time_is_told_so(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "_BODY_SECONDS", 0.5)
    tls = ssl.create_default_context(cafile=str(gateway.files.authority))
    port = int(gateway.url.rpartition(":")[2])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=300) as raw,
        tls.wrap_socket(raw, server_hostname="127.0.0.1") as line,
    ):
        line.sendall(b"POST /v1/enrolment/join HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf")
        assert b" 408 " in line.recv(2**16)


def test_what_is_huge_is_not_read(gateway: Gateway) -> None:
    assert gateway.ask("join", joining(gateway.invite(), new_key(), card="x" * 2**16)).status_code == 413


def test_a_certificate_is_renewed_for_its_own_site_and_key(gateway: Gateway, tmp_path: Path) -> None:
    north, south = new_key(), new_key()
    old = {}
    for name, key in (("north", north), ("south", south)):
        gateway.ask("join", joining(gateway.invite(name), key, name))
        old[name] = pem_of(tmp_path, key, gateway.confirm(key, name, ago=100))
    for _ in range(2):
        assert gateway.ask("renew", {}, old["north"]).json() == {"state": "waiting", "certificate": None}
    assert gateway.asked().renewal_asked is not None
    assert gateway.asked("south").renewal_asked is None
    fresh = sign_site(gateway.files, "north", north.public_key()).decode()
    assert gateway.enrolments.renew(gateway.asked(), fresh)
    assert gateway.ask("renew", {}, old["north"]).json() == {"state": "confirmed", "certificate": fresh}
    assert gateway.asked().renewal_asked is None
    # a certificate of the authority for another key, or of a site that never asked, is renewed for nobody
    strange = [
        pem_of(tmp_path, south, sign_site(gateway.files, name, south.public_key()))
        for name in ("north", "west")
    ]
    others = [*strange, None, old["south"]]
    before = [told(gateway, one) for one in others]
    assert [status for status, _ in before] == [403, 403, 403, 200]
    assert gateway.enrolments.revoke("north", now=datetime.now(UTC))
    assert told(gateway, old["north"]) == (403, REVOKED)
    assert [told(gateway, one) for one in others] == before  # nobody but the key's holder learns of it
    assert REVOKED not in str(before)
    assert not gateway.enrolments.renew(gateway.asked(), fresh)
    assert gateway.ask("renew", {"site": "south"}, old["south"]).status_code == 400


def told(gateway: Gateway, certificate: Path | None) -> tuple[int, str]:
    answer = gateway.ask("renew", {}, certificate)
    return answer.status_code, answer.text


def test_no_secret_is_kept_and_none_is_told(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    token = gateway.invite()
    gateway.ask("join", joining(token, new_key()))
    gateway.ask("join", joining(token, new_key()))
    (invitation,) = gateway.enrolments.invitations()
    assert invitation.secret == digest_of(token.secret)
    assert token.secret not in repr((invitation, gateway.asked(), token))
    assert token.secret not in caplog.text
    assert "another key's" in caplog.text


def test_the_gateway_does_without_the_authority_s_key(gateway: Gateway) -> None:
    gateway.files.authority_key.unlink()
    token, key = gateway.invite(), new_key()
    assert gateway.ask("authority", {}).status_code == 200
    assert gateway.ask("join", joining(token, key)).status_code == 200


def test_only_what_is_named_is_there(gateway: Gateway) -> None:
    for path in ("", "join/", "confirm", "../enrolment/confirm", "authority/ca.key"):
        assert gateway.ask(path, {}).status_code == 404
