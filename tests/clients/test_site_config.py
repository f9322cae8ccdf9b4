from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from clients.site_config import DataSource, Storage, database_url, holdout_key, read_site_config
from contract.errors import SiteConfigError

GOOD = """
name = "north-clinic"
stated_rows = 200
[data]
kind = "csv"
path = "rows"
"""

CARD = """[card]
columns = [{ name = "age", kind = "numeric" }]
time = { column = "month" }
"""

SQL = """
name = "north-clinic"
stated_rows = 200
[data]
kind = "sql"
url = "postgresql+psycopg://reader@db.example/clinic"
table = "visits"
password_env = "TIDEGATE_TEST_PASSWORD"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "site.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(SiteConfigError) as caught:
        read_site_config(path)
    assert caught.value.exit_code == 2
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_paths_are_relative_to_the_file_and_caps_are_on(tmp_path: Path) -> None:
    config = read_site_config(write(tmp_path, GOOD))
    assert config.data.path == str(tmp_path / "rows")
    assert config.storage.ledger == tmp_path / "tidegate" / "ledger.db"
    assert config.policy.require_private
    assert config.policy.epsilon_cap == 8.0


def test_a_site_offers_its_card_once_it_is_no_draft(tmp_path: Path) -> None:
    card = read_site_config(write(tmp_path, GOOD + CARD)).offered
    assert card.names == ("age", "month")
    for text, sentence in ((GOOD, "no card"), (f"{GOOD}{CARD}draft = true\n", "is a draft")):
        with pytest.raises(SiteConfigError, match=sentence) as caught:
            _ = read_site_config(write(tmp_path, text)).offered
        assert "site 'north-clinic'" in str(caught.value)
        assert caught.value.remedy


def test_how_a_csv_file_is_written_is_said_by_the_site(tmp_path: Path) -> None:
    text = f'separator = ";"\ndecimal = ","\nline_breaks = true\nmissing = {{ age = ["-9"] }}\n{CARD}'
    source = read_site_config(write(tmp_path, GOOD + text)).data
    assert (source.separator, source.decimal, source.line_breaks) == (";", ",", True)
    assert source.missing == {"age": ("-9",)}
    assert source.encoding == "utf-8"


@pytest.mark.parametrize("name", ["utf-9", "shift_jis", "iso2022_jp", "utf-7", "rot13", "idna", "ä\\u0000"])
def test_an_encoding_in_which_a_row_may_change_others_is_refused(tmp_path: Path, name: str) -> None:
    """A byte that takes the next one with it, or turns to other letters until a byte turns back."""
    told = refusal(write(tmp_path, f'{GOOD}encoding = "{name}"\n'))
    assert "data.encoding" in told
    assert "such as utf-8, windows-1252" in told


def test_an_encoding_has_one_name(tmp_path: Path) -> None:
    for name, one in (("Windows-1252", "cp1252"), ("latin-1", "iso8859-1"), ("UTF-8-SIG", "utf-8")):
        assert read_site_config(write(tmp_path, f'{GOOD}encoding = "{name}"\n')).data.encoding == one


def test_how_missing_values_are_written_is_said_by_the_site(tmp_path: Path) -> None:
    source = read_site_config(write(tmp_path, GOOD)).data
    assert source.na_values == ("", "NA", "NaN")


def test_a_relative_sqlite_file_is_the_one_beside_the_site_file(tmp_path: Path) -> None:
    text = GOOD.replace('kind = "csv"\npath = "rows"', 'kind = "sql"\nurl = "sqlite:///rows.db"\ntable = "t"')
    config = read_site_config(write(tmp_path, text))
    assert database_url(config.data).database == str(tmp_path / "rows.db")


def test_a_missing_file_a_folder_and_a_file_that_is_no_text_are_named(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "nowhere.toml")
    assert "a folder" in refusal(tmp_path)
    (tmp_path / "site.toml").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in refusal(tmp_path / "site.toml")


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "loop.toml"
    path.symlink_to(path)
    assert "cannot be read" in refusal(path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (('kind = "csv"', 'kind = "csv'), "not valid TOML"),
        (('path = "rows"', 'pth = "rows"\npath = "rows"'), "unknown key 'data.pth' (did you mean 'path'?)"),
        (("stated_rows = 200", ""), "key 'stated_rows' is missing"),
        (("stated_rows = 200", "stated_rows = 0"), "'stated_rows' = 0"),
        (('path = "rows"', ""), "kind = 'csv' needs path"),
        (('path = "rows"', 'path = "rows"\ntable = "t"'), "go with kind = 'sql'"),
        (('kind = "csv"', 'kind = "sql"\nurl = "sqlite://"'), "either table or query"),
        (
            ('path = "rows"', 'path = "rows"\nholdout_share = 0.2'),
            "unknown key 'data.holdout_share' (did you mean 'card.holdout.share'?)",
        ),
        (('path = "rows"', 'path = "rows"\nperson = "id"'), "(did you mean 'card.person'?)"),
        (('path = "rows"', 'path = "rows"\nzzz = 1'), "unknown key 'data.zzz' (known here: columns, "),
        (
            ('name = "north-clinic"', 'name = "north!"'),
            "'name' = 'north!': must be at most 100 letters (A to z), ",
        ),
        (
            ('path = "rows"', f'path = "rows"\n{CARD.replace("numeric", "number", 1)}'),
            "'card.columns[0].kind' (of 'age') = 'number': must be 'numeric' or 'categorical'. Nothing",
        ),
        (
            ('path = "rows"', 'path = "rows"\n[[card.columns]]\nname = "age"'),
            "key 'card.columns[0].kind' (of 'age') is missing: 'numeric' or 'categorical'. Nothing",
        ),
        (('path = "rows"', 'path = "rows"\ndecimal = ","'), "decimal and separator are both ','"),
        (('path = "rows"', "path = 'rows'\nseparator = '\"'"), "separator cannot be"),
        (('path = "rows"', 'path = "rows"\nseparator = ";;"'), "data.separator"),
        (('path = "rows"', f'path = "rows"\n{CARD}[card.holdout]\nshare = 1.0'), "card.holdout.share"),
        (('path = "rows"', 'path = "rows"\n[card]\ncolumns = []'), "card.columns"),
        (
            ('path = "rows"', f'path = "rows"\nmissing = {{ agee = ["9"] }}\n{CARD}'),
            "names 'agee', which is not",
        ),
        (
            ('path = "rows"', f'path = "rows"\ncolumns = {{ agee = "x" }}\n{CARD}'),
            "names 'agee', which is not",
        ),
        (('path = "rows"', 'path = "rows"\n[policy]\ndelta_cap = 0.005'), "not below 1/200"),
        (('path = "rows"', 'path = "rows"\n[policy]\nepsilon_cap = 0'), "policy.epsilon_cap"),
        (
            ('path = "rows"', 'path = "rows"\n[policy]\napproved_experiments = []'),
            "policy.approved_experiments",
        ),
        (
            ('path = "rows"', f'path = "rows"\n[policy]\napproved_experiments = "{"a" * 64}"'),
            f"""'policy.approved_experiments' = '{"a" * 64}': write a list: ["{"a" * 64}"]""",
        ),
        (
            ('path = "rows"', 'path = "rows"\n[policy]\napproved_experiments = ["dd9c1fa6"]'),
            "'policy.approved_experiments[0]' = 'dd9c1fa6': must be 64 small hex digits: "
            "write the whole digest that `tidegate site cost` prints",
        ),
        (
            ('path = "rows"', f'path = "rows"\n[policy]\napproved_experiments = ["{"A" * 64}"]'),
            "must be 64 small hex digits",
        ),
        (
            ('path = "rows"', f'path = "rows"\n{CARD.replace("""{ column = "month" }""", """"month" """)}'),
            """'card.time' = 'month': write a table: { column = "month" }""",
        ),
        (
            ('path = "rows"', f'path = "rows"\n{CARD.replace("""numeric" """, """numeric", low = 3 """)}'),
            "card.columns[0] ('age'): low and high go together",
        ),
        (
            (
                'path = "rows"',
                f'path = "rows"\ncolumns = {{ age = "AGE" }}\nmissing = {{ AGE = ["9"] }}\n{CARD}',
            ),
            "data.missing names 'AGE', which is the source's name of a column: use the card's name, 'age'",
        ),
        (
            ('path = "rows"', f'path = "rows"\ncolumns = {{ AGE = "age" }}\n{CARD}'),
            """data.columns has the two names the wrong way round: write 'age' = "AGE\"""",
        ),
        (
            ('path = "rows"', f'path = "rows"\ncolumns = {{ months = "M" }}\n{CARD}'),
            "card.time = 'month', and data.columns names 'months': write the two alike",
        ),
        (
            ('path = "rows"', f'path = "rows"\ncolumns = {{ patient = "PID" }}\n{CARD}person = "patiant"\n'),
            "card.person = 'patiant', and data.columns names 'patient': write the two alike",
        ),
        (
            ('path = "rows"', f'path = "rows"\ncolumns = {{ agee = "x" }}\n{CARD}'),
            "data.columns names 'agee', which is not on the card (did you mean 'age'?)",
        ),
    ],
)
def test_a_wrong_key_or_value_is_refused(tmp_path: Path, change: tuple[str, str], sentence: str) -> None:
    assert sentence in refusal(write(tmp_path, GOOD.replace(*change)))


def test_files_of_another_kind_are_told(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, 'name = "tiny"\n[task.label]\ncolumn = "ill"\n'))
    assert "this is an experiment file, and a site.toml is expected" in message
    assert "not a TOML file. Name a site.toml" in refusal(write(tmp_path, "patient,age\n7,50\n"))


def test_the_password_comes_from_the_environment_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read_site_config(write(tmp_path, SQL))
    monkeypatch.delenv("TIDEGATE_TEST_PASSWORD", raising=False)
    with pytest.raises(SiteConfigError, match="TIDEGATE_TEST_PASSWORD is not set"):
        database_url(config.data)
    monkeypatch.setenv("TIDEGATE_TEST_PASSWORD", "open sesame")
    url = database_url(config.data)
    assert url.password == os.environ["TIDEGATE_TEST_PASSWORD"]
    assert "sesame" not in str(url)
    assert "sesame" not in repr(config)


def test_a_password_in_the_file_is_refused_without_showing_it(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, SQL.replace("reader@", "reader:hunter2@")))
    assert "holds a password" in message
    assert "hunter2" not in message


def test_what_is_no_url_is_refused(tmp_path: Path) -> None:
    assert "not a database URL" in refusal(
        write(tmp_path, SQL.replace("postgresql+psycopg://reader@db.example/", ""))
    )


def test_a_column_has_the_name_that_the_mapping_gives() -> None:
    source = DataSource(kind="csv", path="x", columns={"age": "AGE_Y"})
    assert (source.column("age"), source.column("sex")) == ("AGE_Y", "sex")


def test_the_holdout_key_is_made_once_for_this_user_alone(tmp_path: Path) -> None:
    storage = Storage(folder=tmp_path / "own")
    key = holdout_key(storage)
    assert len(key) == 32
    assert holdout_key(storage) == key
    assert holdout_key(Storage(folder=tmp_path / "another")) != key
    assert stat.S_IMODE((tmp_path / "own" / "holdout.key").stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["holdout.key"]


def test_a_damaged_holdout_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holdout.key").write_bytes(b"short")
    with pytest.raises(SiteConfigError, match="not 32 bytes"):
        holdout_key(Storage(folder=tmp_path))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SiteConfigError, match="cannot be kept"):
        holdout_key(Storage(folder=tmp_path / "file"))
