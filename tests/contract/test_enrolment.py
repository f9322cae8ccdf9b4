"""The token: one word, whole or refused, that shows its secret to nobody."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.keys import fingerprint, make_node_key, openssh, read_private_key
from contract.enrolment import LONGEST_TOKEN, Token, digest_of, key_fingerprint
from contract.errors import InputError
from contract.outside import shown

AUTHORITY = bytes(range(32))


@pytest.mark.parametrize(
    "gateway", ["a:1", "tidegate.example.org:9443", "10.0.0.7:65535", "[2001:db8::7]:443"]
)
def test_a_token_is_one_word_that_is_read_as_it_was_written(gateway: str) -> None:
    token = Token.make(gateway, AUTHORITY)
    written = token.written()
    assert Token.read(written) == token
    assert Token.read(f" {written}\n") == token
    assert shlex.quote(written) == written
    assert len(written) <= LONGEST_TOKEN
    assert token.secret not in repr(token)
    assert token.digest == digest_of(token.secret) != digest_of(Token.make(gateway, AUTHORITY).secret)


def test_a_name_that_is_too_long_is_refused_where_the_token_is_made() -> None:
    Token.make(f"{'a' * 88}:9", AUTHORITY).written()
    with pytest.raises(InputError, match="too long for a token"):
        Token.make(f"{'a' * 120}:9", AUTHORITY).written()


@given(st.text(max_size=300))
def test_what_is_no_token_is_refused_and_not_repeated(text: str) -> None:
    for word in (text, f"tidegate_{text}"):
        with pytest.raises(InputError) as refused:
            Token.read(word)
        assert refused.value.where == "TOKEN"
        assert shown(refused.value, limit=1000) == str(refused.value)


@given(st.data())
def test_a_slip_in_copying_is_found(data: st.DataObject) -> None:
    written = Token.make("tidegate.example.org:9443", AUTHORITY).written()
    place = data.draw(st.integers(0, len(written) - 1))
    letter = data.draw(st.sampled_from("AZaz09-_").filter(lambda one: one != written[place]))
    changed = written[:place] + letter + written[place + 1 :]
    for wrong in (written[:place], written + letter, written[:place] + written[place + 1 :], changed):
        try:
            read = Token.read(wrong)
        except InputError:
            continue
        assert read == Token.read(written)  # the last letter's spare bits say nothing


@pytest.mark.parametrize(
    "gateway", ["a", "a:0", "a:65536", "a b:1", "a/b:1", "ä:1", "a:1\x1b", "user@a:1", ":1"]
)
def test_an_address_that_is_none_is_refused(gateway: str) -> None:
    written = Token(gateway=gateway, authority=AUTHORITY, secret="0" * 32).written()
    with pytest.raises(InputError, match="not whole"):
        Token.read(written)


def test_a_fingerprint_is_that_of_ssh_keygen(tmp_path: Path) -> None:
    line = (
        "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBFs4IocmZHTzspnY2isLYyHE4NsI"
        "9ztdF7SjzxfRleCw9qoUzx+EqyltTEse7ic7gRjtczNoQ4gCheFslI10RtE= north"
    )
    assert key_fingerprint(line) == "SHA256:iyMz/5lJFOCsZFBsx1ARCTfduyKO3Zv59ZzyDb7CMWg"
    private, _ = make_node_key(tmp_path)
    public = read_private_key(private).public_key()
    assert fingerprint(public) == key_fingerprint(openssh(public))
