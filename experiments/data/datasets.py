"""Public data sets by name: where their files are, and how they become sites.

A file is looked for in the folder that `TIDEGATE_DATA_DIR` names, then in the
user's cache, then at its publisher's own address; wherever it comes from, its
bytes are checked. The check is of the table itself, not of a zip around it,
which a publisher may pack anew.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from contract.errors import DataError
from experiments.data import layout

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DATA_DIR", "HEART", "SETS", "DataFile", "dataset_sites", "find", "is_at_hand", "prepare_sites"]

DATA_DIR = "TIDEGATE_DATA_DIR"
"""The environment variable of the folder that holds one folder a data set."""


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One file of a data set.

    Attributes:
        dataset: the folder's name in `TIDEGATE_DATA_DIR` and in the cache.
        name: the file's name in it.
        address: where its publisher keeps it.
        sha256: of the file, or of its `member`.
        member: for a zip, the path of the table inside.
    """

    dataset: str
    name: str
    address: str
    sha256: str
    member: str | None = None

    def table(self, path: Path) -> bytes:
        """The bytes that `sha256` is of."""
        if self.member is None:
            return path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            return archive.read(self.member)


_UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases"

HEART = {
    hospital: DataFile(
        dataset="heart-disease",
        name=f"processed.{short}.data",
        address=f"{_UCI}/heart-disease/processed.{short}.data",
        sha256=digest,
    )
    for hospital, short, digest in (
        ("cleveland", "cleveland", "a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8"),
        ("hungary", "hungarian", "d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796"),
        ("switzerland", "switzerland", "834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314"),
        ("long-beach", "va", "e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f"),
    )
}
"""UCI Heart Disease (doi 10.24432/C52P4X, CC BY 4.0), by hospital."""

BANK = DataFile(
    dataset="bank-marketing",
    name="bank-additional.zip",
    address=f"{_UCI}/00222/bank-additional.zip",
    sha256="74adfc578bf77a7ff4bb1ba4a9f8709d9e3c6907342959c2c8416847e0afb4d8",
    member="bank-additional/bank-additional-full.csv",
)
"""UCI Bank Marketing (doi 10.24432/C5K306, CC BY 4.0; Moro, Cortez and Rita, 2014)."""


def find(file: DataFile) -> bytes:
    """The checked bytes of a data set's table, from folder, cache or publisher.

    Raises:
        DataError: it is in none of the three, or its bytes are not the published ones.
    """
    for folder in _folders():
        path = folder / file.dataset / file.name
        if path.is_file():
            return _checked(file, path)
    return _checked(file, _download(file, _cache() / file.dataset))


def is_at_hand(files: Iterable[DataFile]) -> bool:
    """Whether all the files lie in the named folder or the cache, so that nothing need be fetched."""
    folders = _folders()
    return all(any((folder / file.dataset / file.name).is_file() for folder in folders) for file in files)


def dataset_sites(name: str) -> list[layout.SiteRows]:
    """The data set's rows, by site, each with its window and its side.

    Raises:
        DataError: there is no data set of that name, or its file is not to be had.
    """
    if name not in SETS:
        raise DataError(f"there is no data set '{name}'", where="data", remedy=f"Known: {', '.join(SETS)}")
    return SETS[name]()


def prepare_sites(name: str, folder: Path) -> list[Path]:
    """Lay a data set out as real sites: for each a folder with `site.toml` and its rows.

    Rows are in `rows/<window>.csv`, or `rows/all.csv` where the set has no windows. What is
    there already is written again; a site's own records (`tidegate/`) are left alone.

    Args:
        name: `rand-health`, `heart-disease`, `bank-marketing` or `digits`.
        folder: where the sites' folders are made.

    Returns:
        The paths of the `site.toml` files, in the order of the sites.

    Raises:
        DataError: as `dataset_sites`; or the folder cannot be written.
    """
    sites = dataset_sites(name)
    try:
        return [layout.write_site(site, folder / site.name) for site in sites]
    except OSError as exc:
        raise DataError(
            f"the sites cannot be written: {exc.strerror}", where=str(folder), remedy="Name another folder"
        ) from exc


def _cache() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("tidegate") / "data"


def _folders() -> list[Path]:
    named = os.environ.get(DATA_DIR)
    return [*([Path(named).expanduser()] if named else []), _cache()]


def _checked(file: DataFile, path: Path) -> bytes:
    try:
        table = file.table(path)
    except (OSError, KeyError, zipfile.BadZipFile) as exc:
        raise DataError(
            "cannot be read", where=str(path), remedy="Remove it, to have it fetched again"
        ) from exc
    if hashlib.sha256(table).hexdigest() != file.sha256:
        raise DataError(
            f"the bytes are not those of data set '{file.dataset}' as published",
            where=str(path),
            remedy=f"Remove the file, and fetch it again from {file.address}",
        )
    return table


def _download(file: DataFile, folder: Path) -> Path:
    """Fetched once into the cache."""
    try:
        import pooch
        from requests import RequestException

        known = None if file.member else f"sha256:{file.sha256}"
        return Path(pooch.retrieve(file.address, known_hash=known, fname=file.name, path=folder))
    except ImportError as exc:
        raise _absent(file, "the package pooch, which fetches it, is not installed") from exc
    except (RequestException, OSError) as exc:
        raise _absent(file, "it could not be fetched") from exc
    except ValueError as exc:  # pooch's word for a wrong checksum; it keeps nothing then
        raise _absent(file, "what was fetched does not have the published checksum") from exc


def _absent(file: DataFile, reason: str) -> DataError:
    return DataError(
        f"data set '{file.dataset}' is neither in the folder of {DATA_DIR} nor in the cache, and {reason}",
        where=file.address,
        remedy=f"Set {DATA_DIR} to a folder with {file.dataset}/{file.name}, or connect to the internet once",
    )


def _heart() -> list[layout.SiteRows]:
    return layout.heart_disease({hospital: find(file) for hospital, file in HEART.items()})


def _bank() -> list[layout.SiteRows]:
    return layout.bank_marketing(find(BANK))


def _rand() -> list[layout.SiteRows]:
    return layout.rand_health(_packaged("statsmodels"))


def _digits() -> list[layout.SiteRows]:
    return layout.digits(_packaged("scikit-learn"))


def _packaged(package: str) -> pd.DataFrame:
    """A data set that travels in a package."""
    try:
        if package == "statsmodels":
            from statsmodels.datasets import randhie

            frame: pd.DataFrame = randhie.load_pandas().data
        else:
            from sklearn.datasets import load_digits

            frame = load_digits(as_frame=True).frame
    except ImportError as exc:
        raise DataError(
            f"the package {package}, which carries this data set, is not installed",
            where="data",
            remedy="Install the extra 'data'",
        ) from exc
    return frame


SETS: dict[str, Callable[[], list[layout.SiteRows]]] = {
    "rand-health": _rand,
    "heart-disease": _heart,
    "bank-marketing": _bank,
    "digits": _digits,
}
"""Every data set by name."""
