from __future__ import annotations

import hashlib
import io
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2_contingency

from clients.site_config import read_site_config
from contract.errors import DataError
from experiments.data import datasets
from experiments.data.datasets import DATA_DIR, HEART, DataFile, dataset_sites, find, prepare_sites
from experiments.data.layout import RAND_BASE

CONTENT = b"1,2\n"
FILE = DataFile(
    dataset="tiny",
    name="rows.csv",
    address="http://127.0.0.1:9/rows.csv",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(DATA_DIR, raising=False)
    return tmp_path / "cache" / "tidegate" / "data"


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    folder = tmp_path / "published"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def put(root: Path, content: bytes = CONTENT) -> None:
    (root / "tiny").mkdir(parents=True)
    (root / "tiny" / "rows.csv").write_bytes(content)


def test_the_named_folder_comes_first_then_the_cache(
    tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(empty_cache)
    assert find(FILE) == CONTENT
    put(tmp_path / "own", b"another\n")
    monkeypatch.setenv(DATA_DIR, str(tmp_path / "own"))
    with pytest.raises(DataError, match="not those of data set 'tiny' as published") as caught:
        find(FILE)
    assert str(tmp_path / "own") in caught.value.where


@pytest.mark.usefixtures("empty_cache")
def test_a_data_set_that_is_nowhere_is_told_in_one_sentence() -> None:
    with pytest.raises(DataError) as caught:
        find(FILE)
    assert caught.value.exit_code == 2
    for part in ("data set 'tiny'", DATA_DIR, FILE.address, "tiny/rows.csv"):
        assert part in str(caught.value)


def test_a_download_is_kept_and_checked(publisher: tuple[Path, str], empty_cache: Path) -> None:
    folder, address = publisher
    (folder / "rows.csv").write_bytes(CONTENT)
    file = DataFile(**{**vars(FILE), "address": f"{address}/rows.csv"})
    assert find(file) == CONTENT
    (folder / "rows.csv").unlink()
    assert find(file) == CONTENT
    assert (empty_cache / "tiny" / "rows.csv").read_bytes() == CONTENT


def test_a_download_of_other_bytes_is_refused_and_not_kept(
    publisher: tuple[Path, str], empty_cache: Path
) -> None:
    folder, address = publisher
    (folder / "rows.csv").write_bytes(b"a login page")
    with pytest.raises(DataError, match="does not have the published checksum"):
        find(DataFile(**{**vars(FILE), "address": f"{address}/rows.csv"}))
    assert not (empty_cache / "tiny" / "rows.csv").exists()


def test_a_zip_is_checked_by_the_table_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = DataFile(**{**vars(FILE), "member": "inside.csv"})
    put(tmp_path)
    monkeypatch.setenv(DATA_DIR, str(tmp_path))
    with pytest.raises(DataError, match="cannot be read"):
        find(file)
    with zipfile.ZipFile(tmp_path / "tiny" / "rows.csv", "w") as archive:
        archive.writestr("inside.csv", CONTENT)
    assert find(file) == CONTENT


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data set 'heart'.*heart-disease"):
        prepare_sites("heart", tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        prepare_sites("digits", tmp_path / "file")


def test_rand_health_sites_are_the_insurance_plans(tmp_path: Path) -> None:
    sites = {site.name: site.rows for site in dataset_sites("rand-health")}
    assert {name: len(rows) for name, rows in sites.items()} == {
        "free-care": 6822,
        "individual-deductible": 4175,
        "quarter-coinsurance": 4065,
        "high-coinsurance": 5128,
    }
    for path in prepare_sites("rand-health", tmp_path):
        config = read_site_config(path)
        read = pd.concat([pd.read_csv(file) for file in sorted((path.parent / "rows").glob("*.csv"))])
        assert len(read) == len(sites[config.name])
        base = read[(read["reported"] < "2026-03-09") & (read["split"] == "train")]
        assert abs(len(base) / config.stated_rows - 1) < 0.05


def test_rand_health_keeps_a_household_on_one_side() -> None:
    from statsmodels.datasets import randhie

    source = randhie.load_pandas().data
    sides = pd.concat([site.rows["split"] for site in dataset_sites("rand-health")]).sort_index()
    person = source[["lncoins", "idp", "lpi", "fmde", "physlm", "disea"]]
    same = (person == person.shift()).all(axis=1)
    assert same.sum() > 15_000
    assert (sides == sides.shift())[same].all()


def test_rand_health_windows_show_no_drift_beyond_chance() -> None:
    """Every feature of every site and later week against the first ten: χ² at 5 %, rows dealt one by one."""
    values = [
        _p_value(pd.concat(map(site.of, RAND_BASE)), site.of(week), column)
        for site in dataset_sites("rand-health")
        for week in site.windows[10:]
        for column in ("lpi", "physlm", "disea", "health", "frequent_visitor")
    ]
    assert len(values) == 200
    assert np.mean(np.array(values) < 0.05) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


def test_file_order_would_show_drift() -> None:
    """The reason for dealing rows one by one: weeks cut in file order drift in every site."""
    for site in dataset_sites("rand-health"):
        rows = site.rows.sort_index()
        half = len(rows) // 2
        assert _p_value(rows[:half], rows[half:], "disea") < 1e-6


def _p_value(first: pd.DataFrame, later: pd.DataFrame, column: str) -> float:
    base, current = first[column], later[column]
    if base.nunique() > 10:
        edges = np.unique(np.quantile(base, np.linspace(0, 1, 11)))[1:-1]
        base, current = (pd.Series(np.digitize(part, edges)) for part in (base, current))
    counts = pd.concat([base.value_counts(), current.value_counts()], axis=1).fillna(0).to_numpy()
    return float(chi2_contingency(counts, correction=False).pvalue) if len(counts) > 1 else 1.0


def test_heart_disease_is_flambys_split(data_dir: Callable[[str], Path]) -> None:
    from sklearn.model_selection import train_test_split

    data_dir("heart-disease")
    sites = dataset_sites("heart-disease")
    assert [int((site.rows["split"] == "train").sum()) for site in sites] == [199, 172, 30, 85]
    assert [int((site.rows["split"] == "holdout").sum()) for site in sites] == [104, 89, 16, 45]
    assert [round(float(site.rows["disease"].mean()), 2) for site in sites] == [0.46, 0.38, 0.98, 0.78]
    for site in sites:
        disease = site.rows["disease"]
        stratify = disease if disease.value_counts().min() > 2 else None
        _, held = train_test_split(
            np.arange(len(disease)), train_size=0.66, test_size=0.34, random_state=43, stratify=stratify
        )
        assert np.flatnonzero(site.rows["split"] == "holdout").tolist() == sorted(held)


def test_heart_disease_of_other_bytes_is_refused(
    data_dir: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(data_dir("heart-disease"), tmp_path / "heart-disease", copy_function=shutil.copyfile)
    path = tmp_path / "heart-disease" / HEART["hungary"].name
    path.write_bytes(path.read_bytes() + b"50,1,1,120,200,0,0,150,0,0,?,?,?,0\n")
    monkeypatch.setenv(DATA_DIR, str(tmp_path))
    with pytest.raises(DataError, match=r"processed\.hungarian\.data.*not those"):
        dataset_sites("heart-disease")


def test_bank_marketing_follows_the_crisis_without_duration(data_dir: Callable[[str], Path]) -> None:
    data_dir("bank-marketing")
    sites = dataset_sites("bank-marketing")
    rows = pd.concat([site.rows for site in sites])
    assert len(sites) == 5
    assert len(rows) == 41_188
    assert rows.index.is_unique
    assert "duration" not in rows
    assert sorted(rows["window"].unique()) == ["base", "d06", "d07", "d08", "d09", "d10"]
    rate = (rows["subscribed"] == "yes").groupby(rows["window"]).mean()
    assert rate["base"] < 0.06
    assert rate["d10"] > 0.4
    assert rows.groupby("window")["euribor3m"].mean().is_monotonic_decreasing


def test_digits_are_dealt_to_four_sites() -> None:
    sites = dataset_sites("digits")
    assert sum(len(site.rows) for site in sites) == 1797
    assert all(set(site.rows["digit"]) == set(range(10)) for site in sites)


def test_a_layout_is_the_same_every_time(tmp_path: Path) -> None:
    contents = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        paths = prepare_sites("digits", folder)
        contents.append([(path.parent / "rows" / "all.csv").read_bytes() for path in paths])
    assert contents[0] == contents[1]
    assert len(pd.read_csv(io.BytesIO(contents[0][0]))) > 400


def test_every_published_file_has_its_address_and_checksum() -> None:
    for file in (*HEART.values(), datasets.BANK):
        assert file.address.startswith("https://archive.ics.uci.edu/")
        assert len(file.sha256) == 64
