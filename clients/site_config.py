"""What a site's administrator writes in `site.toml`, as frozen types.

The file says where the rows are, what they are (the card), what may be spent on them
and where the site keeps its own records. It holds no password: a database's is read from the
environment variable that the file names. This is the only module of the site's
side that reads the environment or makes a secret.
"""

from __future__ import annotations

import codecs
import datetime
import difflib
import functools
import json
import os
import re
import secrets
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from clients.policy import Policy
from contract.card import Card
from contract.errors import SiteConfigError
from contract.experiment_file import parse_toml
from contract.names import MISSING_TEXTS, SiteName
from contract.whole_file import written_aside
from contract.words import counted, verb

if TYPE_CHECKING:
    from sqlalchemy import URL

__all__ = [
    "REPLACE",
    "Agent",
    "DataSource",
    "Policy",
    "Serve",
    "SiteConfig",
    "Storage",
    "database_url",
    "holdout_key",
    "marked_lines",
    "read_site_config",
]

_UTF_8, _UTF_16 = "utf-8", ("utf-16", "utf-16-le", "utf-16-be")

REPLACE = "REPLACE:"
"""Begins each comment of a draft on what came from the rows."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataSource(_Frozen):
    """Where the rows are.

    Attributes:
        kind: `csv`, `parquet` or `sql`.
        path: for files: one file, a folder of them or a pattern such as `rows/*.csv`, so that
            new rows arrive as new files; relative to the folder of `site.toml`.
        separator: between the columns of a CSV file.
        decimal: the decimal sign of the numbers in a CSV file.
        encoding: of a CSV file, by Python's name of the codec: UTF-8, UTF-16, or one with a byte a letter. In
            others a byte in one row may change how the rows below it are read.
        line_breaks: whether the values of a CSV file may hold line breaks, within quotation marks. The
            program that writes it must then quote properly: a stray mark takes the next lines with it.
        na_values: what stands for a missing value in a text, in every column; a category that the
            card declares is never one.
        missing: what stands for one beside these, by the card's name of the column.
        url: for SQL: any SQLAlchemy URL, without a password.
        table, query: for SQL: one of the two.
        password_env: the environment variable that holds the database's password.
        columns: the source's name of a column of the card, where it differs.
        date_format: how the dates of the card's time column are written, such as `%d.%m.%Y %H:%M`
            (Python's `strptime`); left out, they are as in ISO 8601: `2026-01-31`, `2026-01-31T08:30Z`.
    """

    kind: Literal["csv", "parquet", "sql"]
    path: str | None = None
    separator: Annotated[str, Field(min_length=1, max_length=1)] = ","
    decimal: Literal[".", ","] = "."
    encoding: str = _UTF_8
    line_breaks: bool = False
    na_values: tuple[str, ...] = MISSING_TEXTS
    missing: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    url: str | None = None
    table: str | None = None
    query: str | None = None
    password_env: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    date_format: str | None = None

    @field_validator("encoding")
    @classmethod
    def _reads_row_by_row(cls, name: str) -> str:
        try:
            codec = codecs.lookup(name).name
        except (LookupError, ValueError):  # the latter for a name with a character that no name has
            codec = ""
        if codec == "utf-8-sig":
            return _UTF_8
        if codec not in (_UTF_8, *_UTF_16) and not (codec and _is_byte_a_letter(codec)):
            raise ValueError(
                "it must be the name of an encoding such as utf-8, windows-1252, iso-8859-1, iso-8859-15, "
                "cp850, mac-roman or utf-16; convert files in another one to UTF-8"
            )
        return codec

    @field_validator("date_format")
    @classmethod
    def _says_a_day(cls, form: str | None) -> str | None:
        some = datetime.datetime(1999, 10, 23, tzinfo=datetime.UTC)
        try:
            whole = (
                form is None or datetime.datetime.strptime(some.strftime(form), form).date() == some.date()
            )
        except (ValueError, re.error):  # the latter for a directive that is there twice
            whole = False
        if form is not None and re.search("%[Zcx]", form):  # names of zones and what hangs on the language
            raise ValueError("%Z, %c and %x read differently on other machines: write the parts, and %z")
        if not whole:
            raise ValueError("it must say day, month and year, each once, such as %d.%m.%Y or %Y%m%d")
        return form

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.decimal == self.separator:
            raise ValueError(f"decimal and separator are both '{self.decimal}'")
        if self.separator in '"\r\n':
            raise ValueError("separator cannot be a quotation mark or a line break")
        if self.kind == "sql":
            if self.url is None or (self.table is None) == (self.query is None):
                raise ValueError("kind = 'sql' needs url, and either table or query")
            if self.path is not None:
                raise ValueError("kind = 'sql' has a url, not a path")
        elif self.path is None:
            raise ValueError(f"kind = '{self.kind}' needs path")
        elif self.url or self.table or self.query or self.password_env:
            raise ValueError(f"url, table, query and password_env go with kind = 'sql', not '{self.kind}'")
        return self

    def column(self, name: str) -> str:
        """The source's name for the card's column `name`."""
        return self.columns.get(name, name)

    def reading(self, names: Collection[str]) -> str:
        """Names how values of these columns of the card are read, whatever the rows are.

        Everything of this section but where the rows lie: with another separator, query, column or text
        for a missing value, the same rows have other values.
        """
        how = self.model_dump(mode="json", exclude={"path", "url", "table", "password_env"})
        if self.encoding == _UTF_8:  # as before there was a choice: the same rows keep their blocks
            del how["encoding"]
        for key in ("columns", "missing"):
            how[key] = {name: value for name, value in sorted(how[key].items()) if name in names}
        return json.dumps(how, sort_keys=True)


@functools.cache
def _is_byte_a_letter(codec: str) -> bool:
    """Whether each byte is read by itself, and those of ASCII as such: line breaks, marks and separators."""

    def read(*some: int) -> str:
        return bytes(some).decode(codec, "backslashreplace")

    try:
        return all(read(one) == chr(one) for one in range(128)) and all(
            read(one, other) == read(one) + read(other) for one in range(128, 256) for other in range(256)
        )
    except (LookupError, ValueError, AssertionError):  # what is no text, or raises whatever the bytes are
        return False


class Agent(_Frozen):
    """How the site's agent works.

    Attributes:
        memory_mb: the most data that a task may hold in memory; None sets no limit.
        task_seconds: after which a task is ended, its second try included.
        stop_seconds: how long a task may go on once the agent is told to stop.
        device: where models compute: `cpu`; `cuda`, an NVIDIA GPU; or `auto`, which takes that for models
            of 100,000 parameters and more. A GPU that cannot give what the guarantee rests on, or has too
            little memory, is not used, which the site's log says. `tidegate site doctor` looks for it.
        reply_seconds: a reply goes out when a whole number of so many seconds has passed since its message
            came, so that it tells less of how long the rows took, and nothing if it is longer than
            `task_seconds`; 0 sends it at once.
    """

    memory_mb: Annotated[int, Field(ge=256)] | None = None
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    task_seconds: Annotated[float, Field(gt=0)] = 3600.0
    stop_seconds: Annotated[float, Field(ge=0)] = 60.0
    reply_seconds: Annotated[float, Field(ge=0, le=3600)] = 0.0


class Storage(_Frozen):
    """Where the site keeps its ledger, its reports and its logs, relative to `site.toml`.

    Attributes:
        folder: of all of them.
        drift_reports: whether a drift check also has Evidently's report drawn for the administrator. It
            holds raw values, and takes a processor some seconds.
    """

    folder: Path = Path("tidegate")
    drift_reports: bool = True

    @property
    def ledger(self) -> Path:
        """The ledger's database."""
        return self.folder / "ledger.db"

    @property
    def holdout_key(self) -> Path:
        """The secret that decides which records are held out."""
        return self.folder / "holdout.key"

    @property
    def used_windows(self) -> Path:
        """How many rows each window had when it was first used, and a keyed digest of them."""
        return self.folder / "used-windows.json"

    @property
    def reports(self) -> Path:
        """The folder of drift reports, which hold raw values and stay here."""
        return self.folder / "reports"

    @property
    def requests(self) -> Path:
        """The folder of what waits for approval, and of the plans that were approved."""
        return self.folder / "requests"

    @property
    def spool(self) -> Path:
        """The folder of messages that are not answered yet."""
        return self.folder / "spool"

    @property
    def node(self) -> Path:
        """The file with the number of the site's node at the server."""
        return self.folder / "node"

    @property
    def agent_lock(self) -> Path:
        """Held by the site's agent: there is one."""
        return self.folder / "agent.lock"

    @property
    def logs(self) -> Path:
        """The folder of the site's own logs."""
        return self.folder / "logs"


class Serve(_Frozen):
    """How `tidegate site serve` answers applications with a model. Files are relative to `site.toml`.

    Attributes:
        host: where it listens; on another address than this machine's own it needs `keys` and `certificate`.
        port: 0 takes a free one.
        keys: the file of API keys that `tidegate site serve-key` makes; without, no key is asked for.
        certificate: for TLS, in PEM form; with `key`.
        key: of the certificate, in PEM form.
        authority: the certificate of the federation whose signature a version needs; without, that of the
            federation that the site joined.
        log: SQLAlchemy's URL of the database that keeps what was asked and told; without, an SQLite file in
            the site's folder; "none" keeps nothing.
        keep_days: for which the log keeps an answer.
        providers: of ONNX Runtime, in the order in which they are tried; one that is not there is left out.
    """

    host: Annotated[str, Field(min_length=1, max_length=253)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    keys: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None
    log: str | None = None
    keep_days: Annotated[float, Field(gt=0, le=36500)] = 90.0
    providers: tuple[str, ...] = (
        "TensorrtExecutionProvider",
        "CUDAExecutionProvider",
        "CPUExecutionProvider",
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("TLS needs both: certificate and key")
        return self

    def anchored(self, home: Path) -> Serve:
        """The same, with each file's path from the folder of site.toml."""
        files = {
            "keys": self.keys,
            "certificate": self.certificate,
            "key": self.key,
            "authority": self.authority,
        }
        return self.model_copy(
            update={name: path and home / path.expanduser() for name, path in files.items()}
        )


class SiteConfig(_Frozen):
    """One `site.toml`. Paths are absolute once `read_site_config` has read it.

    Attributes:
        name: the site's public name.
        stated_rows: the public rough number of training rows, stated and never counted: it
            weighs the site in the aggregate and normalises its sums.
        data: where the rows are.
        card: what the site offers, in public; a site without one answers nobody.
        policy: what may run here, and what it may spend.
        storage: where the site keeps its own records.
        agent: how the site's agent works.
        serve: how the site's inference service answers.
    """

    name: SiteName
    stated_rows: Annotated[int, Field(ge=1, le=10**12)]
    data: DataSource
    card: Card | None = None
    policy: Policy = Policy()
    storage: Storage = Storage()
    agent: Agent = Agent()
    serve: Serve = Serve()
    _to_replace: tuple[int, ...] = PrivateAttr(default=())
    _file: str = PrivateAttr(default="site.toml")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.policy.delta_cap >= 1 / self.stated_rows:
            raise ValueError(
                f"policy.delta_cap = {self.policy.delta_cap:g} is not below 1/{self.stated_rows} "
                "(stated_rows): it would allow a whole record to be given away"
            )
        if self.card is not None and not self.card.draft:  # a draft leaves out dates, ids and free text
            for key, named in (("data.columns", self.data.columns), ("data.missing", self.data.missing)):
                for name in sorted(named.keys() - set(self.card.names)):
                    raise ValueError(_not_on_card(key, name, self.data, self.card))
        return self

    @property
    def file(self) -> str:
        """The file that it was read from."""
        return self._file

    @property
    def to_replace(self) -> tuple[int, ...]:
        """The lines of the file, counted from 1, that a draft marked and nobody has replaced yet."""
        return self._to_replace

    @property
    def is_draft(self) -> bool:
        """Whether there is a card that is not to be answered on: it says so, or says what rows said."""
        return self.card is not None and (self.card.draft or bool(self._to_replace))

    @property
    def offered(self) -> Card:
        """The card that experiments are held against.

        Raises:
            SiteConfigError: there is none, or it is a draft, or lines of it still say REPLACE.
        """
        if self.card is None:
            raise SiteConfigError(
                "the site has no card, which says what its columns are",
                where=f"site '{self.name}'",
                remedy="Draft one with `tidegate site card`, and put it into site.toml",
            )
        if self.card.draft:
            raise SiteConfigError(
                "the card is a draft",
                where=f"site '{self.name}'",
                remedy="Put public knowledge in the place of what is marked REPLACE, and remove card.draft",
            )
        if lines := self._to_replace:
            raise SiteConfigError(
                f"the card is a draft: {counted(len(lines), 'line')} of it still "
                f"{verb(len(lines), 'says', 'say')} REPLACE (line {', '.join(map(str, lines))})",
                where=f"site '{self.name}'",
                remedy="Put public knowledge in the place of what the rows said, and remove the comments",
            )
        return self.card


def _not_on_card(key: str, name: str, data: DataSource, card: Card) -> str:
    """What is wrong with a key of [data] that is to be the card's name of a column, and is none."""
    ours = next((card_name for card_name, source in data.columns.items() if source == name), None)
    if ours in card.names:
        return f"{key} names '{name}', which is the source's name of a column: use the card's name, '{ours}'"
    source = data.columns.get(name) if key == "data.columns" else None
    if source in card.names:
        return f"{key} has the two names the wrong way round: write '{source}' = \"{name}\", the card's first"
    roles = {
        "card.person": card.person,
        "card.time": card.time.column if card.time else None,
        "card.holdout.column": card.holdout.column,
        "card.holdout.record": card.holdout.record,
    }
    by_name = {column: role for role, column in roles.items() if column is not None}
    nearest = difflib.get_close_matches(name, card.names, n=1)
    if nearest and nearest[0] in by_name:
        role = by_name[nearest[0]]
        return f"{role} = '{nearest[0]}', and {key} names '{name}': write the two alike"
    meant = f" (did you mean '{nearest[0]}'?)" if nearest else ""
    return (
        f"{key} names '{name}', which is not on the card{meant}; leave it out of {key} if no column is meant"
    )


def marked_lines(text: str) -> tuple[int, ...]:
    """The lines of a site.toml, counted from 1, in which a comment says that something is to be replaced."""
    lines = enumerate(text.splitlines(), start=1)
    return tuple(number for number, line in lines if REPLACE in line.partition("#")[2])


def read_site_config(path: Path) -> SiteConfig:
    """Read a `site.toml`.

    Raises:
        SiteConfigError: the file is missing, a folder, unreadable or not UTF-8, or holds a
            syntax error, an unknown key or a value out of bounds.
    """
    return _parsed(_text(path), path.resolve().parent, where=str(path))


@functools.lru_cache(maxsize=16)  # every message looks whether the file is another one; a card may be long
def _parsed(text: str, home: Path, *, where: str) -> SiteConfig:
    config = parse_toml(text, SiteConfig, where=where, error=SiteConfigError)
    data = config.data.model_copy(update=_anchored(config.data, home, where=where))
    storage = config.storage.model_copy(update={"folder": home / config.storage.folder.expanduser()})
    serve = config.serve.anchored(home)
    config = config.model_copy(update={"data": data, "storage": storage, "serve": serve})
    config._file = where
    if config.card is not None:
        config._to_replace = marked_lines(text)
    return config


def database_url(source: DataSource) -> URL:
    """The SQLAlchemy URL of a `sql` source, with the password from its environment variable.

    Raises:
        SiteConfigError: that variable is not set, or the URL is not one.
    """
    url = _parsed_url(str(source.url), where="data.url")
    if source.password_env is None:
        return url
    password = os.environ.get(source.password_env)
    if password is None:
        raise SiteConfigError(
            f"the environment variable {source.password_env} is not set",
            where="data.password_env",
            remedy="Set it to the database's password where the site's agent is started",
        )
    return url.set(password=password)


def holdout_key(storage: Storage) -> bytes:
    """The site's own 32 secret bytes that decide which records are held out.

    Made on first use from the system's entropy, readable by this user alone. Whoever loses it
    deals the records anew, so that rows once trained on may be evaluated on.

    Raises:
        SiteConfigError: the file cannot be read or written, or is not 32 bytes.
    """
    path = storage.holdout_key
    try:
        if not path.exists():
            _create_secret(path)
        key = path.read_bytes()
    except OSError as exc:
        raise SiteConfigError(
            f"the site's hold-out key cannot be kept: {exc.strerror}",
            where=str(path),
            remedy="Make storage.folder writable for this user, on a disk with room",
        ) from exc
    if len(key) != 32:
        raise SiteConfigError(
            "the site's hold-out key is not 32 bytes", where=str(path), remedy="Restore it from a backup"
        )
    return key


def _create_secret(path: Path) -> None:
    """Linked into place: the first of two writers wins."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with written_aside(path, secrets.token_bytes(32)) as aside, suppress(FileExistsError):
        path.hardlink_to(aside)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as exc:
        raise SiteConfigError("no such file", where=str(path), remedy="Run 'tidegate site init'") from exc
    except IsADirectoryError as exc:
        raise SiteConfigError(
            "a folder, not a file", where=str(path), remedy="Name the site.toml in it"
        ) from exc
    except UnicodeDecodeError as exc:
        raise SiteConfigError(
            "not UTF-8 text", where=str(path), remedy="Name the site.toml, and save it as UTF-8"
        ) from exc
    except OSError as exc:
        denied = isinstance(exc, PermissionError)
        raise SiteConfigError(
            f"cannot be read: {exc.strerror}",
            where=str(path),
            remedy="Let this user read it" if denied else "Name the site.toml that 'tidegate site init' made",
        ) from exc


def _anchored(source: DataSource, home: Path, *, where: str) -> dict[str, str]:
    """The source's path or SQLite file, made absolute."""
    if source.path is not None:
        return {"path": str(home / Path(source.path).expanduser())}
    url = _parsed_url(str(source.url), where=f"{where}: data.url")
    if url.password is not None:
        raise SiteConfigError(
            "the URL holds a password",
            where=f"{where}: data.url",
            remedy="Name a variable in data.password_env instead",
        )
    if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
        url = url.set(database=str(home / str(url.database)))
    return {"url": url.render_as_string(hide_password=False)}


def _parsed_url(text: str, *, where: str) -> URL:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(text)
    except ArgumentError as exc:
        raise SiteConfigError(
            "not a database URL", where=where, remedy="Write it like postgresql+psycopg://user@host/database"
        ) from exc
