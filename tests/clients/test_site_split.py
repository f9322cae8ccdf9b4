"""Which records two plans share: the ledger's blocks mean the same rows only where the split is one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.site import close_site, open_site

AGE = '{ name = "age", kind = "numeric", low = 0, high = 120 }'
ILL = '{ name = "ill", kind = "categorical", categories = ["0", "1"] }'
DOSE = '{ name = "dose", kind = "numeric", low = 0, high = 9 }'
CARD = f'columns = [{AGE}, {ILL}]\ntime = {{ column = "window" }}\n'
OTHERS = {
    "another column": CARD.replace(ILL, f"{ILL}, {DOSE}"),
    "a column of another kind": CARD.replace(AGE, ILL.replace("ill", "age")),
    "another time": CARD.replace("window", "month"),
    "no time": CARD.partition("time")[0],
    "by person": f'{CARD}person = "patient"\n',
    "another share": f"{CARD}holdout = {{ share = 0.2 }}\n",
    "by column": f'{CARD}holdout = {{ column = "side" }}\n',
    "by record": f'{CARD}holdout = {{ record = "visit" }}\n',
    "another category": CARD.replace('"1"]', '"1", "2"]'),
    "a category written otherwise": CARD.replace('"1"]', '"1.0"]'),
}
READ_OTHERWISE = {
    "another text for a missing value": 'na_values = ["", "-9"]',
    "one for a column": 'missing = { age = ["-9"] }',
    "another column": 'columns = { age = "years" }',
    "another time": 'columns = { window = "month" }',
    "another decimal sign": 'separator = ";"\ndecimal = ","',
    "another separator": 'separator = ";"',
    "line breaks": "line_breaks = true",
    "another encoding": 'encoding = "windows-1252"',
}
SAME = {
    "another range": CARD.replace("high = 120", "high = 150"),
    "no range": CARD.replace(", low = 0, high = 120", ""),
    "a meaning": CARD.replace('name = "age"', 'name = "age", meaning = "years"'),
    "a description": f'description = "visits"\n{CARD}',
}


@pytest.fixture
def split(tmp_path: Path) -> Iterator[object]:
    """The split of a site with that card; sites of one name have one key."""
    path = tmp_path / "site.toml"

    def named(card: str, folder: str = "tidegate", *, data: str = "", rows: str = "rows.csv") -> str:
        path.write_text(
            f'name = "north"\nstated_rows = 90\n[data]\nkind = "csv"\npath = "{rows}"\n{data}\n'
            f'[storage]\nfolder = "{folder}"\n[card]\n{card}'
        )
        return open_site(path).split

    yield named
    close_site(path)


@pytest.mark.parametrize("card", OTHERS.values(), ids=OTHERS)
def test_a_card_that_deals_records_otherwise_is_another_split(split: object, card: str) -> None:
    assert callable(split)
    assert split(card) != split(CARD)


@pytest.mark.parametrize("card", SAME.values(), ids=SAME)
def test_ranges_and_meanings_deal_nothing(split: object, card: str) -> None:
    assert callable(split)
    assert split(card) == split(CARD)


def test_another_key_deals_anew_but_where_a_column_says_the_side(split: object) -> None:
    assert callable(split)
    assert split(CARD, "one") != split(CARD, "other")
    assert split(OTHERS["by column"], "one") == split(OTHERS["by column"], "other")


def test_a_key_that_is_replaced_while_the_site_runs_deals_its_rows(tmp_path: Path) -> None:
    """Else rows that the old key dealt pay in the new key's blocks, and again after a restart."""
    path = tmp_path / "site.toml"
    path.write_text(
        'name = "north"\nstated_rows = 90\n[data]\nkind = "csv"\npath = "rows.csv"\n'
        f'[card]\ncolumns = [{AGE}, {ILL}]\nholdout = {{ record = "visit" }}\n'
    )
    lines = "".join(f"{visit},50,1\n" for visit in range(100))
    (tmp_path / "rows.csv").write_text(f"visit,age,ill\n{lines}")
    found = []
    for close in (False, False, True):
        site = open_site(path)
        found.append((site.split.name, site.rows(()).holdout.tolist()))
        if len(found) == 1:
            (tmp_path / "tidegate" / "holdout.key").write_bytes(bytes(32))
        if close:
            close_site(path)
    site = open_site(path)
    found.append((site.split.name, site.rows(()).holdout.tolist()))
    close_site(path)
    assert found[0] != found[1]
    assert found[1] == found[2] == found[3]


def test_persons_are_dealt_by_their_name_whatever_the_columns(split: object) -> None:
    assert callable(split)
    card = OTHERS["by person"]
    assert split(card) == split(card.replace(ILL, f"{ILL}, {DOSE}"))
    assert split(card) == split(card.replace('"1"]', '"1", "2"]'))


@pytest.mark.parametrize("data", READ_OTHERWISE.values(), ids=READ_OTHERWISE)
def test_a_source_that_is_read_otherwise_is_another_split(split: object, data: str) -> None:
    assert callable(split)
    assert split(CARD, data=data) != split(CARD)


def test_where_the_rows_lie_deals_nothing(split: object) -> None:
    assert callable(split)
    assert split(CARD, rows="others/*.csv") == split(CARD)


def test_of_the_reading_only_what_deals_matters(split: object) -> None:
    """A late `-9` of a column that is only learned from does not make old and new runs share a budget."""
    assert callable(split)
    for role in ("by person", "by column", "by record"):
        card = OTHERS[role]
        for data in ('missing = { age = ["-9"] }', 'columns = { age = "years" }'):
            assert split(card, data=data) == split(card)
        assert split(card, data='columns = { window = "month" }') != split(card)
    assert split(OTHERS["by person"], data='columns = { patient = "id" }') != split(OTHERS["by person"])
    assert split(OTHERS["by column"], data='columns = { side = "id" }') != split(OTHERS["by column"])


def test_a_record_keeps_its_side_where_a_lasting_value_says_it(split: object) -> None:
    """Where none does, every plan is on both sides of its windows (`clients.ledger.plans.blocks`)."""
    assert callable(split)
    assert not split(CARD).lasting
    assert not split(OTHERS["another share"]).lasting
    assert all(split(OTHERS[role]).lasting for role in ("by person", "by column", "by record"))
