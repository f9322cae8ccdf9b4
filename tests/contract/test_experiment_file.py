from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import ExperimentError
from contract.experiment_file import parse_experiment, parse_experiment_json

GOOD = """
name = "tiny"

[task]
person = "patient"

[task.label]
column = "ill"

[[task.features]]
name = "age"
kind = "numeric"
low = 0
high = 120

[[task.features]]
name = "sex"
kind = "categorical"
categories = ["f", "m"]

[privacy]
epsilon = 1.0
delta = 1e-5
"""


def refusal(text: str) -> str:
    with pytest.raises(ExperimentError) as caught:
        parse_experiment(text, where="tiny.toml")
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith("tiny.toml: ")
    return str(caught.value)


def test_the_good_file_is_read_and_travels_as_json() -> None:
    experiment = parse_experiment(GOOD, where="tiny.toml")
    assert experiment.task.width == 3
    assert type(experiment).model_validate_json(experiment.model_dump_json()).digest == experiment.digest


def test_the_digest_names_the_plan() -> None:
    one, other = (
        parse_experiment(text, where="x") for text in (GOOD, GOOD.replace("epsilon = 1.0", "epsilon = 1.5"))
    )
    assert one.digest != other.digest
    assert parse_experiment("# a comment\n" + GOOD, where="x").digest == one.digest


def test_a_syntax_error_names_the_line() -> None:
    message = refusal(GOOD.replace('column = "ill"', 'column = "ill'))
    assert "not valid TOML" in message
    assert "line 8" in message


@pytest.mark.parametrize(
    ("change", "key", "nearest"),
    [
        (("epsilon = 1.0", "epsilom = 1.0"), "privacy.epsilom", "epsilon"),
        (("[privacy]", "[privcy]"), "privcy", "privacy"),
        (("low = 0", "low = 0\nhihg = 3"), "task.features[0].hihg", "high"),
        (
            ('categories = ["f", "m"]', 'categories = ["f", "m"]\nothr = "m"'),
            "task.features[1].othr",
            "other",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(change: tuple[str, str], key: str, nearest: str) -> None:
    message = refusal(GOOD.replace(*change))
    assert f"unknown key '{key}'" in message
    assert f"did you mean '{nearest}'" in message


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (("epsilon = 1.0", "epsilon = 0"), "privacy.epsilon"),
        (("epsilon = 1.0", "epsilon = -1"), "privacy.epsilon"),
        (("epsilon = 1.0", "epsilon = inf"), "privacy.epsilon"),
        (("epsilon = 1.0", "epsilon = nan"), "privacy.epsilon"),
        (("epsilon = 1.0", 'epsilon = "much"'), "privacy.epsilon"),
        (("delta = 1e-5", "delta = 1"), "privacy.delta"),
        (("delta = 1e-5", "delta = 0"), "privacy.delta"),
        (("high = 120", ""), "task.features[0].high"),
        (('name = "tiny"', 'name = "Tiny Study"'), "name"),
        (("[privacy]", "[privacy]\nsampling_rate = 1.2"), "privacy.sampling_rate"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_its_key(change: tuple[str, str], key: str) -> None:
    assert f"'{key}'" in refusal(GOOD.replace(*change))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("high = 120", "high = 0"), "low (0.0) must be below high (0.0)"),
        (("low = 0", 'low = -1\ntransform = "log1p"'), "log1p needs low above -1"),
        (('["f", "m"]', '["f", "f"]'), "categories must be distinct"),
        (('["f", "m"]', '["f", "m"]\nmissing = "x"'), "missing = 'x' must be one of the categories"),
        (('name = "sex"', 'name = "age"'), "feature 'age' is declared twice"),
        (('column = "ill"', 'column = "age"'), "label column 'age' is also a feature"),
        (("[privacy]", "[privacy]\nseed = 7"), "remove seed or set private = false"),
        (("[privacy]", "[model]\nkind = 'cnn'\n[privacy]"), "image = [channels, height, width]"),
        (("[privacy]", "[retraining]\npersistence = 4\n[privacy]"), "cannot exceed of (3)"),
        (('person = "patient"', 'person = "age"'), "person = 'age' is also a feature or the label"),
    ],
)
def test_what_contradicts_itself_is_refused(change: tuple[str, str], sentence: str) -> None:
    text = GOOD.replace(*change)
    if text.count("[privacy]") > 1:
        head, _, _ = text.rpartition("[privacy]")
        text = head.replace("\n[privacy]\nunit = 'person'", "") + "[privacy]\nunit = 'person'\n"
    assert sentence in refusal(text)


def test_all_faults_are_told_at_once() -> None:
    message = refusal(GOOD.replace("epsilon = 1.0", "epsilon = 0").replace("delta = 1e-5", "delta = 2"))
    assert "privacy.epsilon" in message
    assert "privacy.delta" in message


@given(st.text(max_size=200))
def test_any_text_that_is_no_experiment_is_refused_and_nothing_else(text: str) -> None:
    with pytest.raises(ExperimentError, match="any: "):
        parse_experiment(text, where="any")


def strategy(**keys: object) -> str:
    lines = "\n".join(f"{key} = {value!r}" for key, value in keys.items())
    return GOOD + f"\n[strategy]\n{lines}\n"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {"aggregation": "median", "name": "fedavgm", "quorum": 5},
            "aggregation = 'median' goes with name = 'fedavg' alone: 'fedavgm' is defined on the mean",
        ),
        ({"aggregation": "median", "quorum": 2}, "needs 3 sites and so quorum = 3 or more, not 2"),
        (
            {"aggregation": "krum", "quorum": 4},
            "needs 2 · malicious_sites + 3 = 5 sites and so quorum = 5 or more, not 4",
        ),
        ({"aggregation": "krum", "malicious_sites": 2, "quorum": 6}, "= 7 sites"),
        (
            {"aggregation": "trimmed-mean", "quorum": 4},
            "needs 5 sites for trimmed_share = 0.2 to drop any and so quorum = 5 or more",
        ),
        ({"aggregation": "trimmed-mean", "trimmed_share": 0.5}, "'strategy.trimmed_share' = 0.5"),
        ({"aggregation": "mode"}, "'strategy.aggregation' = 'mode'"),
    ],
)
def test_a_robust_aggregation_that_cannot_work_is_refused(keys: dict[str, object], words: str) -> None:
    assert words in refusal(strategy(**keys))


@pytest.mark.parametrize("share", [0.07, 0.1, 0.15, 0.2, 0.29, 0.3, 0.3333, 0.34, 0.49])
def test_the_fewest_sites_are_those_of_which_flower_drops_one(share: float) -> None:
    text = strategy(aggregation="trimmed-mean", trimmed_share=share, quorum=100)
    fewest = parse_experiment(text, where="x").strategy.fewest_sites
    assert int(share * fewest) == 1
    assert int(share * (fewest - 1)) == 0


def test_a_robust_aggregation_changes_the_digest() -> None:
    digests = {
        parse_experiment(strategy(aggregation=name, quorum=5), where="x").digest
        for name in ("mean", "trimmed-mean", "median", "krum")
    }
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (('["f", "m"]', '"f"'), """'task.features[1].categories' (of 'sex') = 'f': write a list: ["f"]"""),
        (
            ('[task.label]\ncolumn = "ill"', '[task]\nlabel = "ill"'),
            """'task.label' = 'ill': write a table: { column = "ill" }""",
        ),
        (("low = 0", 'low = "0,5"'), "'task.features[0].low' (of 'age') = '0,5': must be a number"),
        (("low = 0", "low = 200"), "task.features[0] ('age'): low (200.0) must be below high (120.0)"),
        (('kind = "numeric"', 'kind = "number"'), "'task.features[0].kind' (of 'age') = 'number': must be"),
        (('name = "age"', "name = 3"), "'task.features[0].name' = 3: must be a text in quotation marks"),
        (('["f", "m"]', '["f"]'), "'task.features[1].categories' (of 'sex'): must have at least 2 items"),
    ],
)
def test_a_wrong_shape_is_told_in_the_words_of_toml(change: tuple[str, str], sentence: str) -> None:
    text = GOOD.replace(*change)
    assert sentence in refusal(text.replace('[task]\nperson = "patient"\n\n[task]', "[task]"))


@pytest.mark.parametrize(
    "text",
    [
        "patient,age\n7,50\n",
        '{"name": "tiny"}',
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\nQyNTUx==\n-----END OPENSSH PRIVATE KEY-----\n",
    ],
)
def test_a_file_of_another_kind_is_not_to_be_corrected(text: str) -> None:
    message = refusal(text)
    assert "not a TOML file. Name an experiment file" in message
    assert "line" not in message


def test_a_site_file_is_told_from_an_experiment() -> None:
    message = refusal('name = "north"\nstated_rows = 50\n[data]\nkind = "csv"\npath = "rows"\n')
    assert "this is a site.toml, and an experiment file is expected" in message
    assert "unknown key" not in message


@pytest.mark.parametrize("text", ["1.0", "0", "null", "true", '"name"', "[]", "[1, {}]"])
def test_json_that_is_no_object_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(ExperimentError, match="not a JSON object"):
        parse_experiment_json(text, where="body")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("privacy.private", '"no"', "'privacy.private' = 'no': must be true or false"),
        ("privacy.private", "0", "'privacy.private' = 0: must be true or false"),
        ("privacy.epsilon", "true", "'privacy.epsilon' = True: must be a number"),
        ("privacy.epsilon", '"3"', "'privacy.epsilon' = '3': must be a number"),
        ("privacy.epsilon", "2026-01-31", "'privacy.epsilon': must be a number"),
        ("privacy.delta", "nan", "should be a finite number"),
        ("strategy.rounds", "true", "'strategy.rounds' = True: must be a whole number"),
        ("strategy.rounds", '"60"', "'strategy.rounds' = '60': must be a whole number"),
        ("data", "07:30:00", "'data': must be a text in quotation marks"),
    ],
)
def test_a_value_of_another_kind_is_taken_for_no_other(key: str, value: str, words: str) -> None:
    """A word in the place of `false` once made a run that gives no guarantee."""
    age = "{ name = 'age', kind = 'numeric', low = 0, high = 9 }"
    text = f"[task]\nlabel = {{ column = 'ill' }}\nfeatures = [{age}]"
    file = f"name = 'x'\n{key} = {value}\n{text}"
    with pytest.raises(ExperimentError) as caught:
        parse_experiment(file, where="x.toml")
    assert words in str(caught.value)


@pytest.mark.parametrize("depth", [150, 250, 900, 5000])
def test_what_is_nested_deep_is_refused_in_a_sentence(depth: int) -> None:
    with pytest.raises(ExperimentError) as caught:
        parse_experiment(f"name = 'x'\ndata = {'[' * depth}{']' * depth}", where="x.toml")
    assert "JSON" not in str(caught.value)


def test_a_number_of_thousands_of_digits_is_refused_in_a_sentence() -> None:
    with pytest.raises(ExperimentError, match="too long"):
        parse_experiment(f"name = 'x'\nstrategy.rounds = 0x{'f' * 5000}", where="x.toml")
