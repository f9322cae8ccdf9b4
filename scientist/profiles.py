"""Profiles: the servers that a person is connected to, and the token for each, in files of their own.

FOLDER/profiles/NAME.toml   one profile, for its owner's eyes alone
FOLDER/profiles/NAME.key    what its owner signs runs with, likewise; it is never sent anywhere
FOLDER/active               the name of the one that commands use
"""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from contract.errors import InputError
from contract.experiment_file import parse_toml
from contract.names import PersonName
from contract.roles import Role
from contract.whole_file import replace_file
from scientist.settings import ScientistSettings

__all__ = ["Profile", "Profiles", "require_name"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_NONE = "-"
"""In the place of a profile's name: use none."""
_Url = Annotated[str, Field(pattern=r"^https://[^\s/@?#]{1,260}$")]


class Profile(BaseModel):
    """A person's connection to a federation's server.

    Attributes:
        url: `https://host:port`.
        person, role: whose token it is, and what it allows.
        token: shows the server who asks.
        authority: what the server's certificate must be signed by, in PEM form.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: _Url
    person: PersonName
    role: Role
    token: str = Field(min_length=1, max_length=200, repr=False)
    authority: str = Field(min_length=1, max_length=65_536, repr=False)


class Profiles:
    """The profiles of this user.

    Args:
        settings: name their folder.
    """

    def __init__(self, settings: ScientistSettings) -> None:
        self._folder, self._wanted = settings.folder, settings.profile

    def save(self, name: str, profile: Profile) -> Path:
        """Write a profile, in the place of an earlier one of that name, and make it the active one.

        Raises:
            InputError: the name cannot be one, or the folder cannot be written to.
        """
        lines = [f"{key} = {_quoted(value)}" for key, value in profile.model_dump().items()]
        path = self._path(require_name(name))
        _write(path, "\n".join(lines) + "\n")
        _write(self._active, name + "\n")
        return path

    def active(self) -> str:
        """The name of the profile that commands use; empty where there is none.

        Raises:
            InputError: the environment names one that is none.
        """
        if self._wanted == _NONE:
            return ""
        if self._wanted:
            if not self._path(require_name(self._wanted)).exists():
                raise InputError(
                    f"there is no profile '{self._wanted}'",
                    where="TIDEGATE_PROFILE",
                    remedy=f"There are: {', '.join(self.names()) or 'none'}. Make one: tidegate connect URL",
                )
            return self._wanted
        try:
            name = self._active.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return ""
        return name if _NAME.fullmatch(name) and self._path(name).exists() else ""

    def names(self) -> list[str]:
        """All of them."""
        return sorted(path.stem for path in (self._folder / "profiles").glob("*.toml"))

    def read(self) -> Profile:
        """The profile that commands use.

        Raises:
            InputError: there is none, others may read it, or something in it is wrong.
        """
        name = self.active()
        if not name:
            raise InputError(
                "you are not connected to a server",
                remedy="Connect: tidegate connect URL. What ran on this machine is shown by `tidegate "
                "compare RUN` and `tidegate models show NAME VERSION`",
            )
        path = self._path(name)
        return parse_toml(_read_secret(path), Profile, where=str(path), error=InputError)

    def make_signing_key(self, name: str) -> bytes:
        """The key with which the owner of a profile signs; made where there is none yet.

        Raises:
            InputError: it cannot be read or written, or others may read it.
        """
        path = self._key(require_name(name))
        if not path.exists():
            from contract.mandate import make_signing_key

            _write(path, make_signing_key().decode())
        return _read_secret(path).encode()

    def signing_key(self) -> bytes | None:
        """The key of the profile that commands use; None where it has none.

        Raises:
            InputError: it cannot be read, or others may read it.
        """
        path = self._key(self.active())
        return _read_secret(path).encode() if path.exists() else None

    def remove(self, name: str = "") -> str:
        """Forget a profile and its signing key, of the active one if none is named; its name.

        Raises:
            InputError: there is none.
        """
        name = require_name(name) if name else self.active()
        if not name or not self._path(name).exists():
            known = ", ".join(self.names())
            raise InputError(
                f"there is no profile '{name}'" if name else "you are not connected to a server",
                remedy=f"There are the profiles {known}: name one" if known else "No profile is kept here",
            )
        if name == self.active():
            self._active.unlink(missing_ok=True)
        self._path(name).unlink()
        self._key(name).unlink(missing_ok=True)
        return name

    @property
    def _active(self) -> Path:
        return self._folder / "active"

    def _path(self, name: str) -> Path:
        return self._folder / "profiles" / f"{name}.toml"

    def _key(self, name: str) -> Path:
        return self._folder / "profiles" / f"{name}.key"


def require_name(name: str) -> str:
    """The name, if it can be a profile's.

    Raises:
        InputError: it cannot.
    """
    if _NAME.fullmatch(name) is None:
        raise InputError(
            "this cannot be a profile's name",
            where="--name",
            remedy="Give at most 100 letters (A to z), digits, '.', '_' and '-', first a letter or digit",
        )
    return name


def _read_secret(path: Path) -> str:
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise InputError(
                "others may read this file, and the secret in it",
                where=str(path),
                remedy=f"chmod 600 {path}. If somebody did: remove it, ask the operator for another token, "
                "and connect again",
            )
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        words = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        raise InputError(
            f"cannot be read: {words}", where=str(path), remedy="Connect again: tidegate connect URL"
        ) from exc


def _quoted(value: str) -> str:
    """As a TOML string: JSON's is one but for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _write(path: Path, text: str) -> None:
    """Whole or not at all, and readable for this user alone from its first byte on."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(path, text.encode())
    except OSError as exc:
        raise InputError(
            f"cannot be written: {exc.strerror}",
            where=str(path),
            remedy="Let this user write there, or name another folder with XDG_CONFIG_HOME",
        ) from exc
