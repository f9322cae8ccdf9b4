"""Asks what it is told to, and prints the status of each answer; 0 where there was none. Runs on a host.

    python -m tests.e2e.hosts.ask URL ASKS

ASKS is a list in JSON, of objects of `Ask`. The server is not verified: whoever asks may be anybody.
"""

from __future__ import annotations

import json
import ssl
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any, TypedDict

import httpx

__all__ = ["Ask"]


class Ask(TypedDict, total=False):
    """One request.

    Attributes:
        method, path: of it.
        content: in hexadecimal.
        certificate: a PEM file that is shown.
        key: the file of a node key that signs it, as an agent signs.
        token: of a person.
    """

    method: str
    path: str
    content: str
    certificate: str
    key: str
    token: str


def main(url: str, asks: list[Ask]) -> list[int]:
    """The statuses."""
    lines = {name: _line(url, name) for name in {one.get("certificate", "") for one in asks}}
    return [_status(lines[one.get("certificate", "")], one) for one in asks]


def _line(url: str, certificate: str) -> httpx.Client:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate:
        context.load_cert_chain(certificate)
    return httpx.Client(base_url=url, verify=context, trust_env=False, timeout=60)


def _status(line: httpx.Client, ask: Ask) -> int:
    headers = {"content-type": "application/protobuf"} if "content" in ask else {}
    if "token" in ask:
        headers["authorization"] = f"Bearer {ask['token']}"
    if "key" in ask:
        headers |= _signature(Path(ask["key"]))
    try:
        answer = line.request(
            ask["method"], ask["path"], headers=headers, content=bytes.fromhex(ask.get("content", ""))
        )
    except httpx.TransportError:
        return 0
    return answer.status_code


def _signature(file: Path) -> dict[str, str]:
    from flwr.common.constant import TIMESTAMP_HEADER
    from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
    from flwr.supercore.date import now
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

    from clients.keys import read_private_key

    key: Any = read_private_key(file)
    timestamp = now().isoformat()
    return {
        FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(public_key_to_bytes(key.public_key())).decode(),
        FLEET_HTTP_SIGNATURE_HEADER: b64encode(sign_message(key, timestamp.encode())).decode(),
        TIMESTAMP_HEADER: timestamp,
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], json.loads(sys.argv[2]))))
