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
}
SAME = {
    "another range": CARD.replace("high = 120", "high = 150"),
    "no range": CARD.replace(", low = 0, high = 120", ""),
    "another category": CARD.replace('"1"]', '"1", "2"]'),
    "a meaning": CARD.replace('name = "age"', 'name = "age", meaning = "years"'),
    "a description": f'description = "visits"\n{CARD}',
}


@pytest.fixture
def split(tmp_path: Path) -> Iterator[object]:
    """The name of the split of a site with that card; sites of one name have one key."""
    path = tmp_path / "site.toml"

    def named(card: str, folder: str = "tidegate") -> str:
        path.write_text(
            f'name = "north"\nstated_rows = 90\n[data]\nkind = "csv"\npath = "rows.csv"\n'
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
def test_ranges_categories_and_meanings_deal_nothing(split: object, card: str) -> None:
    assert callable(split)
    assert split(card) == split(CARD)


def test_another_key_deals_anew_but_where_a_column_says_the_side(split: object) -> None:
    assert callable(split)
    assert split(CARD, "one") != split(CARD, "other")
    assert split(OTHERS["by column"], "one") == split(OTHERS["by column"], "other")


def test_persons_are_dealt_by_their_name_whatever_the_columns(split: object) -> None:
    assert callable(split)
    card = OTHERS["by person"]
    assert split(card) == split(card.replace(ILL, f"{ILL}, {DOSE}"))
