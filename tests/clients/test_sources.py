from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

from clients.rows.sources import HOLDOUT, load_frame, locate
from clients.site_config import DataSource, SiteConfig
from contract.errors import DataError
from contract.experiment import CategoricalFeature, Label, NumericFeature, Task

TASK = Task(
    label=Label(column="ill"),
    features=(
        NumericFeature(name="age", kind="numeric", low=0, high=120),
        CategoricalFeature(name="ward", kind="categorical", categories=("1", "2", "east")),
    ),
    person="patient",
    time="week",
)
ROWS = pd.DataFrame(
    {
        "age": [30.5, None, 70.0],
        "ward": ["1", "2", None],
        "patient": ["a", "a", "b"],
        "week": ["w01", "w01", "w02"],
        "ill": [0, 1, 0],
        "secret_note": ["x", "y", "z"],
    }
)


def site(**data: Any) -> SiteConfig:
    return SiteConfig(name="s", stated_rows=3, data=DataSource(**data))


def refusal(config: SiteConfig, task: Task = TASK) -> str:
    with pytest.raises(DataError) as caught:
        load_frame(config, task)
    assert caught.value.where
    assert caught.value.remedy
    return str(caught.value)


def csv(path: Path, frame: pd.DataFrame = ROWS, **options: Any) -> SiteConfig:
    frame.to_csv(path, index=False, **options)
    return site(kind="csv", path=str(path))


def parquet(path: Path) -> SiteConfig:
    ROWS.assign(ward=pd.array([1, 2, None], dtype="Int64")).to_parquet(path)
    return site(kind="parquet", path=str(path))


def database(path: Path, **data: Any) -> SiteConfig:
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "CREATE TABLE visits "
                "(age REAL, ward INTEGER, patient TEXT, week TEXT, ill INTEGER, secret_note TEXT)"
            )
        )
        connection.execute(
            sa.text(
                "INSERT INTO visits VALUES "
                "(30.5,1,'a','w01',0,'x'), (NULL,2,'a','w01',1,'y'), (70,NULL,'b','w02',0,'z')"
            )
        )
    engine.dispose()
    return site(kind="sql", url=f"sqlite:///{path}", **(data or {"table": "visits"}))


def kinds(folder: Path) -> dict[str, SiteConfig]:
    return {
        "csv": csv(folder / "rows.csv"),
        "parquet": parquet(folder / "rows.parquet"),
        "table": database(folder / "table.db"),
        "query": database(folder / "query.db", query="SELECT * FROM visits ORDER BY rowid"),
    }


@pytest.mark.parametrize("kind", ["csv", "parquet", "table", "query"])
def test_every_source_gives_the_same_frame_of_the_columns_needed(tmp_path: Path, kind: str) -> None:
    frame = load_frame(kinds(tmp_path)[kind], TASK)
    assert list(frame.columns) == ["age", "ward", "ill", "patient", "week"]
    assert frame["age"].dtype == "float64"
    assert frame["age"].isna().tolist() == [False, True, False]
    assert frame["ward"].tolist() == ["1", "2", None]
    assert frame["ill"].tolist() == ["0", "1", "0"]
    assert locate(frame, 2).endswith("row 3")


def test_text_is_kept_as_it_is_in_the_file(tmp_path: Path) -> None:
    config = csv(tmp_path / "rows.csv", ROWS.assign(ward=["01", "1.0", "None"]))
    assert load_frame(config, TASK)["ward"].tolist() == ["01", "1.0", "None"]


def test_new_files_in_a_folder_are_new_rows_and_each_row_knows_its_file(tmp_path: Path) -> None:
    config = csv(tmp_path / "a.csv").model_copy(update={"data": DataSource(kind="csv", path=str(tmp_path))})
    assert len(load_frame(config, TASK)) == 3
    csv(tmp_path / "b.csv")
    frame = load_frame(config, TASK)
    assert len(frame) == 6
    assert locate(frame, 3) == "b.csv, row 1"
    pattern = site(kind="csv", path=str(tmp_path / "b*.csv"))
    assert len(load_frame(pattern, TASK)) == 3


def test_columns_and_the_holdout_column_are_found_by_the_names_of_the_source(tmp_path: Path) -> None:
    csv(
        tmp_path / "rows.csv",
        ROWS.rename(columns={"age": "AGE_Y"}).assign(side=["train", "holdout", "train"]),
    )
    config = site(
        kind="csv", path=str(tmp_path / "rows.csv"), columns={"age": "AGE_Y"}, holdout_column="side"
    )
    frame = load_frame(config, TASK)
    assert frame["age"].iloc[0] == 30.5
    assert frame[HOLDOUT].tolist() == ["train", "holdout", "train"]


def test_separator_and_missing_values_are_the_sites_own(tmp_path: Path) -> None:
    csv(tmp_path / "rows.csv", ROWS, sep=";", na_rep="?")
    config = site(kind="csv", path=str(tmp_path / "rows.csv"), separator=";", na_values=("?",))
    assert load_frame(config, TASK)["age"].isna().sum() == 1


def test_a_wrong_separator_is_named(tmp_path: Path) -> None:
    message = refusal(csv(tmp_path / "rows.csv", ROWS, sep=";"))
    assert "one column only" in message
    assert "data.separator" in message


def test_a_missing_file_an_empty_folder_and_an_empty_file_are_named(tmp_path: Path) -> None:
    assert "no such file" in refusal(site(kind="csv", path=str(tmp_path / "rows.csv")))
    assert "no such file" in refusal(site(kind="csv", path=str(tmp_path / "*.csv")))
    assert "holds no .csv" in refusal(site(kind="csv", path=str(tmp_path)))
    (tmp_path / "rows.csv").write_text("")
    assert "the file is empty" in refusal(site(kind="csv", path=str(tmp_path / "rows.csv")))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_without_rows_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"rows.{kind}"
    if kind == "csv":
        ROWS.head(0).to_csv(path, index=False)
    else:
        ROWS.head(0).to_parquet(path)
    assert "no rows" in refusal(site(kind=kind, path=str(path)))


@pytest.mark.parametrize("kind", ["csv", "parquet", "table", "query"])
def test_a_missing_feature_is_refused_with_the_nearest_column(tmp_path: Path, kind: str) -> None:
    age = NumericFeature(name="agee", kind="numeric", low=0, high=1)
    message = refusal(kinds(tmp_path)[kind], TASK.model_copy(update={"features": (age,)}))
    assert "column 'agee' is missing (nearest: 'age')" in message
    assert "data.columns" in message


def test_a_value_that_is_no_number_is_named_with_its_row(tmp_path: Path) -> None:
    message = refusal(csv(tmp_path / "rows.csv", ROWS.assign(age=["31", "4O", "x"])))
    assert "rows.csv, row 2: column 'age' holds '4O', which is not a number" in message


def test_a_row_with_too_many_fields_is_refused_not_shifted(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("age,ward,patient,week,ill\n30,1,a,w01,0,7\n31,1,a,w01,0,7\n")
    assert "more fields than the header" in refusal(site(kind="csv", path=str(path)))


def test_bytes_that_are_no_text_or_no_parquet_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(b"age,ward,patient,week,ill\n\xff\xfe,1,a,w,0\n")
    assert "not UTF-8" in refusal(site(kind="csv", path=str(tmp_path / "rows.csv")))
    (tmp_path / "rows.parquet").write_bytes(b"age,ward\n")
    assert "not a Parquet file" in refusal(site(kind="parquet", path=str(tmp_path / "rows.parquet")))


def test_a_database_that_is_not_there_is_named_and_not_made(tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    assert "refused or cannot be reached" in refusal(
        site(kind="sql", url=f"sqlite:///{path}", table="visits")
    )
    assert not path.exists()


def test_a_missing_table_and_a_wrong_query_are_named(tmp_path: Path) -> None:
    config = database(tmp_path / "a.db", table="visit")
    assert "no table 'visit'" in refusal(config)
    assert "no such column" in refusal(database(tmp_path / "b.db", query="SELECT absent FROM visits"))


def test_a_server_that_does_not_answer_is_named_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE_TEST_PASSWORD", "hunter2")
    url = "postgresql+psycopg://reader@127.0.0.1:9/clinic?connect_timeout=2"
    message = refusal(site(kind="sql", url=url, table="visits", password_env="TIDEGATE_TEST_PASSWORD"))
    assert "cannot be reached" in message
    assert "hunter2" not in message


def test_a_query_cannot_write(tmp_path: Path) -> None:
    config = database(tmp_path / "a.db", query="DELETE FROM visits RETURNING *")
    assert "readonly" in refusal(config)
