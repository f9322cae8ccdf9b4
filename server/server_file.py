"""What an operator writes in `server.toml`: how others reach the server.

Without that file a server stands for this machine alone: sites and people are on it too.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from contract.errors import InputError
from contract.experiment_file import parse_toml

__all__ = ["ServerFile", "least_approvals", "read_server_file", "server_file"]

_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_Port = Annotated[int, Field(ge=1, le=65535)]
MOST_KEPT = 10_000
"""Runs that one person may submit in all, unless the file says otherwise."""
_HERE = ("127.0.0.1", "localhost")


class ServerFile(BaseModel):
    """How others reach the server.

    Attributes:
        hosts: names and addresses that sites and people know it by; its certificate is for these, and the
            first stands in invitations.
        listen: the address to listen at; `0.0.0.0` and `::` are all of this machine's.
        gateway_port: where sites come in.
        api_port: where people come in.
        runs_at_once: how many of the runs that people submit go on at a time; others wait in a queue.
        strangers_per_address: connections of one address (of IPv6, one network of 64 bits) that a port keeps
            while nobody has shown on them who they are; more where many share an address.
        runs_kept_per_person: how many runs a person may submit in all; each may take a megabyte of the state
            database, and is kept for ever once it has begun.
        approvals: how many people must approve a model version before it goes into service, whatever its
            experiment says. 0 leaves it to the experiment, and so to the gate alone where that asks nobody.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hosts: tuple[str, ...] = Field(min_length=1, max_length=20)
    listen: str = "0.0.0.0"  # noqa: S104 - a server that others are to reach
    gateway_port: _Port = 9443
    api_port: _Port = 8443
    runs_at_once: Annotated[int, Field(ge=1, le=100)] = 2
    strangers_per_address: Annotated[int, Field(ge=8, le=256)] = 32
    runs_kept_per_person: Annotated[int, Field(ge=100, le=1_000_000)] = MOST_KEPT
    approvals: Annotated[int, Field(ge=0, le=2)] = 0

    @field_validator("hosts")
    @classmethod
    def _are_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not _is_address(host) and _NAME.fullmatch(host) is None:
                raise ValueError(f"'{host[:80]}' is neither a host's name in small letters nor an IP address")
        return hosts

    @field_validator("listen")
    @classmethod
    def _is_address(cls, listen: str) -> str:
        if not _is_address(listen):
            raise ValueError(f"'{listen[:80]}' is no IP address: 0.0.0.0 listens at all of this machine's")
        return listen

    @model_validator(mode="after")
    def _two_ports(self) -> Self:
        if self.gateway_port == self.api_port:
            raise ValueError("gateway_port and api_port are one: sites and people come in at two")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """What the server's certificate is for: also this machine's own names, for who is on it."""
        return tuple(dict.fromkeys((*self.hosts, *_HERE)))

    @property
    def gateway(self) -> str:
        """host:port for sites, as they know it."""
        return _at(self.hosts[0], self.gateway_port)

    @property
    def api(self) -> str:
        """The address for people, as they know it."""
        return f"https://{_at(self.hosts[0], self.api_port)}"


def server_file(home: Path) -> Path:
    """The path of the file in a server's folder."""
    return home / "server.toml"


def read_server_file(home: Path) -> ServerFile | None:
    """The server.toml in this folder; None if there is none.

    Raises:
        InputError: it cannot be read, or something in it is wrong.
    """
    path = server_file(home)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as exc:
        words = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        raise InputError(
            f"cannot be read: {words}", where=str(path), remedy="Make it readable for this user"
        ) from exc
    return parse_toml(text, ServerFile, where=str(path), error=InputError)


def least_approvals(home: Path) -> int:
    """How many people must approve a version of any experiment; 0 of a server without the file."""
    file = read_server_file(home)
    return 0 if file is None else file.approvals


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _at(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
