"""Whatever is wrong with a run is said before it is paid for: one sentence, code 2, an untouched ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clients import site as sites
from tests.clients.test_app import entries
from tests.clients.test_package_models import MIXES
from tests.installed import built, install, on_path
from tests.runtimes.conftest import SMALL, make_site

Command = Callable[..., str]

RUN = ("run", "small.toml", "--site", "north/site.toml")
AGE = '[[task.features]]\nname = "age"\nkind = "numeric"\nlow = 0\nhigh = 120\n'

ODD = {
    "mixes": ("rows - rows.mean(0)", "mixes-rows", "change the package, such as BatchNorm to GroupNorm"),
    "nan": ("rows * float('nan')", "not-finite", "NaN or infinities", "change the package"),
    "wide": ("rows.repeat(1, 2)", "wrong-shapes", "change the package or model.parameters"),
}
"""What a package's module makes of its rows, the word of the site for it, and part of what to do."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sites, "_open", {})
    for variable, folder in (("TIDEGATE_HOME", "home"), ("XDG_CONFIG_HOME", "config")):
        monkeypatch.setenv(variable, str(tmp_path / folder))
    monkeypatch.chdir(tmp_path)
    make_site(tmp_path / "north", "north", 0)
    text = SMALL.format(
        kind="linear", strategy="fedavg", rounds=2, quorum=1, private="true", seed="evaluation_epsilon = 8.0"
    )
    (tmp_path / "small.toml").write_text(text.replace("\nepsilon = 2.0", "\nepsilon = 8.0"))
    return tmp_path


def refused(
    tidegate: Command, place: Path, *words: str, command: tuple[str, ...] = RUN, code: int = 2
) -> None:
    """One sentence with these words, in their order; no block of the site has paid."""
    told = tidegate(*command, code=code)
    (line,) = [one for one in told.splitlines() if one.startswith("error: ")]
    found = [line.find(word) for word in words]
    assert -1 not in found, told
    assert found == sorted(found), told
    assert line.endswith("."), told
    assert "Traceback" not in told
    assert "reserve" not in entries(place / "north" / "site.toml")


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_what_is_right_is_paid_for(tidegate: Command, place: Path) -> None:
    tidegate(*RUN, "--yes")
    assert "reserve" in entries(place / "north" / "site.toml")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('column = "ill"', 'column = "ward"', ("'ward'", "is also a feature")),
        ('column = "ill"', 'column = "il"', ("site 'north'", "'il'", "did you mean 'ill'?", "Choose")),
        (
            '"ill" }',
            '"ill", classes = ["1", "9"] }',
            ("site 'north'", "the card has '1' alone", "nothing to predict", "Choose"),
        ),
        ('"ill" }', '"ill", classes = ["8", "9"] }', ("site 'north'", "none of the card's", "Choose")),
        ('"ill" }', '"ill", classes = ["1"] }', ("small.toml", "at least two", "correct the file")),
        ("low = 0\nhigh = 120", "low = 120\nhigh = 0", ("'age'", "must be below", "correct the file")),
        ("low = 0\nhigh = 120", "low = 5\nhigh = 5", ("'age'", "must be below", "correct the file")),
        ('["a", "b"]', '["a"]', ("of 'ward'", "at least 2", "correct the file")),
        ('["a", "b"]', '["a", "b", "b"]', ("'ward'", "must be distinct", "correct the file")),
        (AGE, AGE + AGE, ("small.toml", "'age' is declared twice", "correct the file")),
        ("quorum", "qorum", ("strategy.qorum", "did you mean 'quorum'?", "correct the file")),
        ("evaluation_epsilon = 8.0", "epsilom = 1.0", ("epsilom", "did you mean", "correct")),
        ('name = "age"', 'name = "aeg"', ("site 'north'", "did you mean 'age'?", "Choose")),
        (
            "\nepsilon = 8.0",
            "\nepsilon = 0.05",
            ("'small'", "nothing was spent", "privacy.epsilon = 0.05 and 90 rows", "would do", "--yes"),
        ),
        ("epsilon = 8.0", "epsilon = nan", ("privacy.", "finite", "correct the file")),
        ("rounds = 2", "rounds = 0", ("strategy.rounds", "greater than or equal to 1", "correct the file")),
    ],
)  # fmt: skip
def test_an_experiment(tidegate: Command, place: Path, old: str, new: str, words: tuple[str, ...]) -> None:
    edit(place / "small.toml", old, new)
    refused(tidegate, place, *words)


def test_a_card_with_one_class(tidegate: Command, place: Path) -> None:
    edit(place / "north" / "site.toml", 'categories = ["0", "1"]', 'categories = ["0"]')
    refused(tidegate, place, "site 'north'", "'ill' has one category", "nothing to predict", "Choose")


def test_a_feature_without_variance(tidegate: Command, place: Path) -> None:
    edit(place / "north" / "site.toml", 'categories = ["a", "b"]', 'categories = ["a"]')
    refused(
        tidegate, place, "nothing was spent", "'ward' tells nothing", "it is 'a'", "Leave it out", "--yes"
    )


def test_a_window_that_no_site_has(tidegate: Command, place: Path) -> None:
    words = ("site 'north'", "none of 0 training rows in window w7", "as the rows name it")
    refused(tidegate, place, *words, command=(*RUN, "--window", "w7"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _: b"", ("no header", "with header and rows")),
        (lambda rows: rows.splitlines()[0], ("none of 0 training rows", "delivered")),
        (lambda rows: rows.replace(b",", b";"), ("one column only", "data.separator", "site.toml")),
        (lambda rows: rows.replace(b"age,", b"Age,", 1), ("'age'", "nearest: 'Age'", "data.columns")),
        (lambda rows: rows.replace(b"ward", b"age", 1), ("'age'", "2 times", "Deliver it once")),
        (lambda rows: rows.decode().encode("utf-16"), ("header cannot be read", 'encoding = "utf-16"')),
        (lambda _: b"\x89PNG\r\n\x1a\n\0" * 9, ("header cannot be read", "not UTF-8", "convert it")),
    ],
)
def test_a_file_of_rows(
    tidegate: Command, place: Path, change: Callable[[bytes], bytes], words: tuple[str, ...]
) -> None:
    rows = place / "north" / "rows.csv"
    rows.write_bytes(change(rows.read_bytes()))
    refused(tidegate, place, "site 'north'", *words)


def test_rows_that_all_lack_a_value(tidegate: Command, place: Path) -> None:
    rows = place / "north" / "rows.csv"
    header, *lines = rows.read_text().splitlines()
    rows.write_text("\n".join([header, *(f",{line.partition(',')[2]}" for line in lines)]) + "\n")
    refused(tidegate, place, "site 'north'", "none of 90 training rows", "missing value in 'age'", "See")


@pytest.mark.parametrize("name", ["north", "small.toml"])
def test_a_folder_in_the_place_of_a_file(tidegate: Command, place: Path, name: str) -> None:
    if name == "north":
        refused(
            tidegate, place, "north", "a folder", "site.toml", command=("run", "small.toml", "--site", name)
        )
        return
    refused(tidegate, place, "north", "Is a directory", "Name", command=("run", "north", *RUN[2:]))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scratch = tmp_path_factory.mktemp("odd")
    for name, (odd, *_) in ODD.items():
        source = MIXES.replace("rows - rows.mean(0)", odd)
        if name == "wide":
            source = source.replace(
                "super().forward(rows.repeat(1, 2))", "super().forward(rows).repeat(1, 2)"
            )
        package = built(scratch / f"{name}-source", name=name, source=source)
        install(package, scratch / name, scratch)
    return scratch


@pytest.fixture
def packages(installed: Path) -> Iterator[None]:
    with on_path(*(installed / name for name in ODD)):
        yield


def with_package(place: Path, name: str) -> None:
    edit(place / "small.toml", 'kind = "linear"\nhidden = [4]', f'kind = "package"\nname = "{name}"')
    site = place / "north" / "site.toml"
    site.write_text(f'{site.read_text()}[policy.allow]\nmodels = ["{name}-package"]\n')


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("name", ODD)
def test_a_package_that_cannot_be_trained(tidegate: Command, place: Path, name: str) -> None:
    with_package(place, name)
    refused(tidegate, place, "missing: north", *ODD[name][1:], "begin a new run", code=1)


def test_a_package_that_is_missing(tidegate: Command, place: Path) -> None:
    with_package(place, "no-such")
    refused(tidegate, place, "no installed package offers a model 'no-such'", "with pip")
