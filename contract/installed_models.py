"""Model packages that are installed here: which one has a name, what exactly it is, and its family.

A package offers a family (`contract.model_families.TorchFamily`) by an entry point of the group
`tidegate.models`. It is code that the administrator of the machine has installed; nothing here, and no
message, can fetch any. Whoever asks for one names its distribution, its version and a hash of its installed
files, and all three are compared with what lies here before any of its code is loaded.

The hash is over the files that the distribution's RECORD names, as they are on disk and not as it says that
they were: what was changed after the installation has another hash. Left out is what differs from machine to
machine: compiled files, scripts outside the library's folder, and all that the tools which built and
installed it wrote into its `.dist-info` folder, but for the entry points. It does not cover what the package
imports beside itself: other distributions, which each site installs as it sees fit, as it does torch.

A process that has loaded a package runs what it has loaded, whatever is installed later. So once another
version lies there, it refuses both until it is started again.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast

from pydantic import TypeAdapter, ValidationError

from contract.errors import InputError, NotInstalledError
from contract.model_package import Package

if TYPE_CHECKING:
    from contract.experiment import Experiment, Model
    from contract.model_families import TorchFamily

__all__ = ["GROUP", "installed", "load", "loaded_once", "needs_of", "require_installed", "with_package"]

GROUP = "tidegate.models"

_ENTRY_POINTS = "entry_points.txt"
_COMPILED = frozenset({".pyc", ".pyo"})
_MOST_BYTES = 2**28
"""Of a package's files: one with weights in it is no family."""

_kept: ContextVar[dict[str, TorchFamily] | None] = ContextVar("_kept", default=None)
"""Families within `loaded_once`, by their model's JSON."""
_loaded: dict[str, Package] = {}
"""What was installed under each name when this process first loaded it."""


def installed(name: str) -> Package:
    """What is installed under a name, read anew from the disk.

    Raises:
        NotInstalledError: nothing is, or more than one, or nothing whose files can be told.
    """
    return _described(_entry_point(name))


def with_package(experiment: Experiment) -> Experiment:
    """The experiment with the version of its model's package that is installed here, where it states none.

    Raises:
        NotInstalledError: none is.
    """
    model = experiment.model
    if model.name is None or model.package is not None:
        return experiment
    stated = model.model_copy(update={"package": installed(model.name)})
    return experiment.model_copy(update={"model": stated})


def needs_of(model: Model) -> str:
    """What to do where an experiment's package is not installed; empty for our own kinds."""
    return "" if model.package is None else f"{model.package.install} there"


def require_installed(model: Model, *, where: str = "") -> None:
    """Refuse a package model of which this very version is not installed here. No code of it is run.

    Args:
        model: of our own kinds nothing is asked.
        where: whose machine it is, for the error.

    Raises:
        InputError: the experiment does not say which version.
        NotInstalledError: it is not the one that is here.
    """
    if model.kind != "package":
        return
    name, wanted = _named(model)
    try:
        found = installed(name)
    except NotInstalledError as exc:
        raise NotInstalledError(exc.what, where=where or exc.where, remedy=_remedy(wanted)) from exc
    if found != wanted:
        what = (
            f"is {found}"
            if str(found) != str(wanted)
            else f"{found} has other files (SHA-256 {found.sha256})"
        )
        raise NotInstalledError(
            f"the experiment's model '{name}' is of {wanted} (SHA-256 {wanted.sha256}), and what is "
            f"installed here {what}",
            where=where,
            remedy=_remedy(wanted),
        )
    if _loaded.get(name, wanted) != wanted:
        raise NotInstalledError(
            f"{wanted} is installed, but this process has loaded {_loaded[name]} before",
            where=where,
            remedy="Start it again: at a site its agent (`tidegate site up`)",
        )


@contextmanager
def loaded_once() -> Iterator[None]:
    """Within, a model's package is held against the disk once, and not in each step.

    For training on imagined rows, which is never charged: where rows are read, each exchange looks anew.
    """
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def load(model: Model) -> TorchFamily:
    """The family of a package model, with its settings, once the package is known to be the one.

    Raises:
        NotInstalledError: as `require_installed`.
        InputError: the package is none, or does not take these settings.
    """
    kept = _kept.get()
    if kept is None:
        return _load(model)
    key = model.model_dump_json()
    if key not in kept:
        kept[key] = _load(model)
    return kept[key]


def _load(model: Model) -> TorchFamily:
    require_installed(model)
    name, wanted = _named(model)
    family = _family(name, wanted)
    where = f"model package '{wanted}'"
    try:
        found = TypeAdapter(family).validate_python(dict(model.parameters), extra="forbid")
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, ("model", "parameters", *first["loc"])))
        raise InputError(f"it takes no such settings: {key}: {first['msg']}", where=where) from exc
    except Exception as exc:
        raise InputError(f"its family cannot be made ({type(exc).__name__})", where=where) from exc
    try:
        hash(found)
    except TypeError as exc:
        raise InputError("its family is not frozen: make it a frozen dataclass", where=where) from exc
    lacking = [part for part in _PARTS if not callable(getattr(found, part, None))]
    if lacking:
        raise InputError(f"its family has no '{lacking[0]}' (contract.model_families)", where=where)
    return cast("TorchFamily", found)


_PARTS = ("parameters", "initial", "build", "loss", "judged")


def _remedy(wanted: Package) -> str:
    return f"If it is to be trusted here, install that one: {wanted.install}"


def _named(model: Model) -> tuple[str, Package]:
    if model.name is None or model.package is None:
        raise InputError(
            "the experiment does not say which version of its model package is meant",
            where="model.package",
            remedy="Run it where the package is installed, or state distribution, version and sha256",
        )
    return model.name, model.package


def _entry_point(name: str) -> metadata.EntryPoint:
    found = list(metadata.entry_points(group=GROUP, name=name))
    if not found:
        raise NotInstalledError(
            f"no installed package offers a model '{name}'",
            where="this machine",
            remedy="Install the one that does, with pip",
        )
    if len(found) > 1:
        names = ", ".join(sorted(str(one.dist.name) if one.dist else "?" for one in found))
        raise NotInstalledError(
            f"several installed packages offer a model '{name}': {names}",
            where="this machine",
            remedy="Remove all but one",
        )
    return found[0]


def _described(entry_point: metadata.EntryPoint) -> Package:
    dist = entry_point.dist
    where = f"model '{entry_point.name}'"
    if dist is None:
        raise NotInstalledError("nothing tells which package offers it", where=where)
    digest, total, modules = hashlib.sha256(), 0, set()
    for name, path in sorted(_files(dist)):
        try:
            content = path.read_bytes()
        except OSError as exc:
            raise NotInstalledError(
                f"its file {name} cannot be read: {exc.strerror}", where=where, remedy="Install it again"
            ) from exc
        total += len(content)
        if total > _MOST_BYTES:
            raise NotInstalledError(f"its files have more than {_MOST_BYTES:,} bytes", where=where)
        digest.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
        modules.add(name)
    if not _module_files(entry_point.module) & modules:
        raise NotInstalledError(
            f"the files of {dist.name} do not hold its module {entry_point.module}, so no hash names them",
            where=where,
            remedy="Install it as it is, not as an editable one",
        )
    try:
        return Package(distribution=dist.name, version=dist.version, sha256=digest.hexdigest())
    except ValidationError as exc:
        raise NotInstalledError("the package's name or version is none", where=where) from exc


def _files(dist: metadata.Distribution) -> Iterator[tuple[str, Path]]:
    """The files that are hashed: name in the RECORD, place on this disk."""
    # not `dist.files`: from Python 3.12 on that leaves out what is gone, without a word
    for line in csv.reader((dist.read_text("RECORD") or "").splitlines()):
        if not line:
            continue
        name = PurePosixPath(line[0])
        of_the_machine = name.parts[0].endswith(".dist-info") and name.name != _ENTRY_POINTS
        if ".." in name.parts or name.is_absolute() or name.suffix in _COMPILED or of_the_machine:
            continue
        yield str(name), Path(str(dist.locate_file(name)))


def _module_files(module: str) -> set[str]:
    path = module.replace(".", "/")
    return {f"{path}.py", f"{path}/__init__.py"}


def _family(name: str, wanted: Package) -> Any:
    """What the entry point names. The files are looked at again once it is loaded: they may have changed."""
    where = f"model package '{wanted}'"
    entry_point = _entry_point(name)
    _loaded.setdefault(name, wanted)
    try:
        family = functools.reduce(
            getattr, entry_point.attr.split("."), importlib.import_module(entry_point.module)
        )
    except Exception as exc:
        raise InputError(
            f"it cannot be loaded ({type(exc).__name__}: {exc})",
            where=where,
            remedy="See whether all that it needs is installed here",
        ) from exc
    files: Mapping[str, Path] = {} if entry_point.dist is None else dict(_files(entry_point.dist))
    module = sys.modules[entry_point.module]
    own = {path.resolve() for path in files.values()}
    if module.__file__ is None or Path(module.__file__).resolve() not in own:
        raise NotInstalledError(
            f"its module {entry_point.module} was loaded from {module.__file__}, which is no file of it",
            where=where,
            remedy="Remove what stands in its place",
        )
    if installed(name) != wanted:
        raise NotInstalledError("it was changed while it was loaded", where=where, remedy="Start again")
    return family
