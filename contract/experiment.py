"""What an experiment is: frozen types, checked whole when they are made.

An experiment file (TOML) is read into an `Experiment` by
`contract.experiment_file`. The same object travels as JSON in Flower's run
configuration, so that the server and every site hold the same plan, and its
`digest` names that plan in ledgers, passports and checkpoints.

Everything that preprocessing needs (ranges, categories, missing values) is
stated here in public, before any data is seen, so that scaling and encoding
cost no privacy.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Collection, Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from contract.errors import InputError
from contract.model_package import ModelName, Package, Settings
from contract.names import ColumnName, ExperimentName, Prose, SiteName, Value
from contract.windows import season_of

__all__ = [
    "CALENDAR",
    "LEAST_EPSILON",
    "MOST_PARAMETERS",
    "SEASONAL",
    "CategoricalFeature",
    "Drift",
    "Experiment",
    "Feature",
    "Gate",
    "Label",
    "Model",
    "NumericFeature",
    "Placement",
    "Privacy",
    "Retraining",
    "Strategy",
    "Task",
]

Probability = Annotated[float, Field(ge=1e-6, lt=1)]
Positive = Annotated[float, Field(ge=1e-9, le=1e6)]
Count = Annotated[int, Field(ge=1, le=10_000)]
LEAST_EPSILON = 1e-3
Epsilon = Annotated[float, Field(ge=LEAST_EPSILON, le=1e4)]
Delta = Annotated[float, Field(ge=1e-15, le=0.1)]
Width = Annotated[int, Field(ge=1, le=65_536)]
Number = Annotated[float, Field(ge=-1e15, le=1e15)]
Seconds = Annotated[float, Field(ge=1e-3, le=30 * 86_400)]

SEASONAL = "drift.reference = 'same-season'"
CALENDAR = (
    "Seasons need calendar windows: let the card say time = { kind = 'date', every = 'month' }, or a day, "
    "week or quarter; or leave drift.reference out"
)

_OF_CLASSES = ("log_loss", "brier", "auc", "accuracy")
_OF_NUMBERS = ("mae", "rmse")
_LITTLE = 0.02
"""Of a label's range: by so much a site's error may be worse where nothing is stated."""

_NARROWEST = 1e-9
"""A range is at least so wide, over its greater end: a narrower one has no place for a float32."""
MOST_PARAMETERS = 250_000_000


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _UNLESS(default: object) -> Any:  # noqa: N802 - read as a part of the field's type
    return Field(exclude_if=lambda value: value == default)


class NumericFeature(_Frozen):
    """A number with a public range.

    Attributes:
        name: the card's name of the column.
        kind: `numeric`.
        low, high: the range, from public knowledge (a form, a clinical reference), never from the data. A
            value outside is clamped, or its row left out, as `task.out_of_range` says. Both may be left out
            for `tidegate ranges`, which asks the sites.
        transform: `log1p` takes the logarithm of 1 + the value, for long tails.
        missing: the public value that stands for a missing one; without it a row that lacks the value is left
            out.
    """

    name: ColumnName
    kind: Literal["numeric"]
    low: Number
    high: Number
    transform: Literal["none", "log1p"] = "none"
    missing: Number | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        if self.transform == "log1p" and self.low <= -1:
            raise ValueError("transform log1p needs low above -1")
        low, high = self.scaled_range
        if high - low < _NARROWEST * max(abs(low), abs(high)):
            raise ValueError(f"the range from low ({self.low}) to high ({self.high}) is too narrow")
        return self

    @property
    def scaled_range(self) -> tuple[float, float]:
        """The range after the transform."""
        if self.transform == "log1p":
            return math.log1p(self.low), math.log1p(self.high)
        return self.low, self.high


class CategoricalFeature(_Frozen):
    """One of a public list of categories, encoded one-hot in that order.

    Attributes:
        name: the card's name of the column.
        kind: `categorical`.
        categories: those that the model tells apart.
        missing: the category that stands for a missing value; without it a row that lacks the value is left
            out.
        other: the category for a value that is not listed; without it the row is left out.
    """

    name: ColumnName
    kind: Literal["categorical"]
    categories: tuple[Value, ...] = Field(min_length=2, max_length=10_000)
    missing: Value | None = None
    other: Value | None = None

    @model_validator(mode="after")
    def _declared(self) -> Self:
        if len(set(self.categories)) != len(self.categories):
            raise ValueError("categories must be distinct")
        for key, value in (("missing", self.missing), ("other", self.other)):
            if value is not None and value not in self.categories:
                raise ValueError(f"{key} = '{value}' must be one of the categories")
        return self


Feature = Annotated[NumericFeature | CategoricalFeature, Field(discriminator="kind")]


def _classes(label: dict[str, Any]) -> tuple[str, ...]:
    return () if label.get("kind") == "numeric" else ("0", "1")


class Label(_Frozen):
    """The column to predict.

    A row whose label is missing, or none of the classes, is left out of training and evaluation.

    Attributes:
        column: the card's name of the column.
        kind: `categorical` predicts a class, `numeric` a number (regression).
        classes: the values of a categorical label; the last of two is the positive one.
        positive_share: roughly how often the positive one of two comes, where that is public knowledge and
            far from a half; never from the data. The model's bias begins there: less has to be learnt.
        low, high: the public range of a numeric label, as a feature has one. A label outside is clamped, or
            its row left out, as `task.out_of_range` says.
        loss: of a numeric label: the `squared` error, or that of Huber (1964), in which a large error weighs
            less.
        huber_threshold: for `huber`, the error from which on it weighs less, as a share of the range.
    """

    # what a categorical label has not is left out of the JSON: an older file keeps its digest
    column: ColumnName
    kind: Annotated[Literal["categorical", "numeric"], _UNLESS("categorical")] = "categorical"
    classes: tuple[Value, ...] = Field(
        default_factory=_classes, max_length=10_000, json_schema_extra={"default": ["0", "1"]}
    )
    positive_share: Annotated[float | None, Field(ge=1e-4, le=1 - 1e-4), _UNLESS(None)] = None
    low: Annotated[Number | None, _UNLESS(None)] = None
    high: Annotated[Number | None, _UNLESS(None)] = None
    loss: Annotated[Literal["squared", "huber"], _UNLESS("squared")] = "squared"
    huber_threshold: Annotated[float, Field(ge=1e-3, le=1), _UNLESS(0.1)] = 0.1

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.kind == "categorical":
            if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
                raise ValueError("classes must be at least two distinct values")
            if (self.low, self.high, self.loss) != (None, None, "squared"):
                raise ValueError("low, high and loss are for a number: add kind = 'numeric'")
        elif self.classes:
            raise ValueError("classes are for a categorical label: leave them out")
        else:
            self._as_feature()
        if self.positive_share is not None and len(self.classes) != 2:
            raise ValueError("positive_share goes with two classes")
        return self

    @property
    def range(self) -> NumericFeature | None:
        """The range of a numeric label, in the form that a feature's has; None for a categorical one."""
        return None if self.kind == "categorical" else self._as_feature()

    def _as_feature(self) -> NumericFeature:
        if self.low is None or self.high is None:
            raise ValueError("a numeric label needs its public range: write low and high")
        return NumericFeature(name=self.column, kind="numeric", low=self.low, high=self.high)


class Task(_Frozen):
    """What is predicted, and from what.

    Attributes:
        description: for readers.
        label: the column to predict.
        features: the columns that it is predicted from.
        person: the column that says whose a row is, as the card of each site says; it is repeated for the
            reader, and a site whose card says otherwise refuses the experiment.
        time: the column that cuts rows into windows, repeated in the same way.
        out_of_range: `clamp` sets a value outside its range to the nearer end, `leave-out` leaves its row
            out.
        scaling: maps each range, and each category's 0 and 1, to [0, 1] (`unit`) or to [-1, 1] (`symmetric`).
            The first makes shorter gradients, which clipping spares; with the second fewer models fit the
            data badly, which counts at an ε far below 1.
    """

    description: Prose = ""
    label: Label
    features: tuple[Feature, ...] = Field(min_length=1, max_length=10_000)
    person: ColumnName | None = None
    time: ColumnName | None = None
    out_of_range: Literal["clamp", "leave-out"] = "clamp"
    scaling: Literal["unit", "symmetric"] = "unit"

    @model_validator(mode="after")
    def _unique(self) -> Self:
        names = [feature.name for feature in self.features]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"feature '{twice[0]}' is declared twice")
        if self.label.column in names:
            raise ValueError(f"label column '{self.label.column}' is also a feature")
        for key, column in (("person", self.person), ("time", self.time)):
            if column is not None and column in (*names, self.label.column):
                raise ValueError(f"{key} = '{column}' is also a feature or the label")
        return self

    @property
    def width(self) -> int:
        """Number of model inputs after one-hot encoding."""
        return sum(
            1 if isinstance(feature, NumericFeature) else len(feature.categories) for feature in self.features
        )


class Model(_Frozen):
    """The model family.

    Attributes:
        kind: `linear` is logistic regression, `mlp` has hidden layers, `cnn` takes an image's pixels;
            `package` is a model of your own, from a Python package that is installed at every site.
        hidden: units of each hidden layer.
        image: channels, height and width, for `cnn` alone; their product is the number of inputs.
        name: of the model, for `package` alone: that of its entry point in the group `tidegate.models`.
        parameters: settings of that model, as the package says.
        package: which version is meant. Left out, `tidegate run` fills in the one that is installed where
            it runs. A site where another one is installed refuses.
    """

    kind: Literal["linear", "mlp", "cnn", "package"] = "linear"
    hidden: tuple[Width, ...] = Field(default=(32,), max_length=16)
    image: tuple[Count, Count, Count] | None = None
    # left out of the JSON of our own kinds, whose digests stay what they were
    name: Annotated[ModelName | None, _UNLESS(None)] = None
    parameters: Annotated[Settings, _UNLESS(())] = ()
    package: Annotated[Package | None, _UNLESS(None)] = None

    @model_validator(mode="after")
    def _named_if_package(self) -> Self:
        if self.kind == "package" and self.name is None:
            raise ValueError("kind = 'package' needs the model's name: name = 'NAME'")
        if self.kind != "package" and (self.name or self.parameters or self.package):
            raise ValueError("name, parameters and package go with kind = 'package'")
        return self

    @model_validator(mode="after")
    def _image_for_cnn(self) -> Self:
        if (self.kind == "cnn") != (self.image is not None):
            raise ValueError("image = [channels, height, width] goes with kind = 'cnn'")
        return self


class Strategy(_Frozen):
    """How rounds are run and aggregated (Flower's own strategies).

    Where `learning_rate` is left out, a recipe (`contract.recipe`) chooses it, and with it those of `name`,
    `rounds`, `server_momentum`, `average_last`, `evaluate_every` and `privacy.clipping_norm` that are left
    out too, from public facts alone: features, model, stated rows, ε and δ. `tidegate run` says what it
    chose, and sites are asked for those numbers. Otherwise, and for `cnn`, the defaults below hold.

    Attributes:
        name: what the server makes of the sites' updates: `fedavg` (McMahan et al., 2017), `fedavgm` with
            momentum (Hsu et al., 2019), `fedprox` (Li et al., 2020), `fedadam` and `fedyogi` (Reddi et al.,
            2021).
        aggregation: how the updates of a round become one. `mean` weighs each site by the rows it states, and
            one bad site can put the result anywhere. The others bear some: there each site has one vote,
            and its stated rows weigh nothing. `trimmed-mean` drops values at either end, `median` takes the
            middle one, both for each parameter by itself (Yin et al., 2018); `krum` takes the one update
            that is nearest to its neighbours (Blanchard et al., 2017). They go with `fedavg` alone, and
            need a quorum that leaves them something to drop.
        trimmed_share: for `trimmed-mean`, the share of the values that is dropped at either end.
        malicious_sites: for `krum`, how many bad sites it bears, among at least twice as many and three.
        rounds: how often the sites train.
        local_steps: gradient steps of a site in a round.
        learning_rate: the size of a site's step.
        server_learning_rate: the size of the server's step.
        server_momentum: of the server's step, for `fedavgm`, `fedadam` and `fedyogi`.
        adaptivity: for `fedadam` and `fedyogi`: the greater, the less a parameter's own history counts.
        proximal_mu: for `fedprox`, how strongly a site is held to the model that it was sent.
        average_last: the share of final rounds whose models are averaged into the result (Polyak and
            Juditsky, 1992): post-processing, free of privacy cost.
        evaluate_every: in each so-many-th round the incoming model is evaluated too, in the same exchange.
        clipped_every: in each so-many-th round, beginning with the first, each site also releases a noisy
            count of the rows whose gradient is cut to `privacy.clipping_norm`, and of the others. It costs a
            part of `privacy.epsilon` (`privacy.clipped_epsilon`). Left out, nothing is counted.
        update_bits: how many bits a parameter of a private update travels in: 32, or 8, a quarter of the
            bytes on the site's line and in its ledger, by a rounding far below the noise. Left out, 8 from a
            million parameters on.
        quorum: how many sites a round needs to be connected, and to answer.
        round_timeout: seconds that a round waits for the quorum; then the run fails.
        grace: seconds for the other sites once the quorum has answered; at least twice as long as that took.
        sites: the names of those that are asked; left out, all of the federation.
        reason: for readers; the recipe writes here what it chose and why.
    """

    name: Literal["fedavg", "fedavgm", "fedprox", "fedadam", "fedyogi"] = "fedavg"
    aggregation: Literal["mean", "trimmed-mean", "median", "krum"] = "mean"
    trimmed_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.2
    malicious_sites: Count = 1
    rounds: Count = 20
    local_steps: Count = 1
    learning_rate: Positive = 1.0
    server_learning_rate: Positive = 1.0
    server_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    adaptivity: Positive = 1e-3
    proximal_mu: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    average_last: Annotated[float, Field(ge=0, le=1)] = 0.5
    evaluate_every: Count = 5
    clipped_every: Annotated[Count | None, _UNLESS(None)] = None
    update_bits: Literal[8, 32] | None = None
    quorum: Count = 2
    round_timeout: Seconds = 600.0
    grace: Seconds = 10.0
    # left out of the JSON where empty: the digest of a plan that says all itself stays what it was
    sites: Annotated[tuple[SiteName, ...], Field(max_length=1000), _UNLESS(())] = ()
    reason: Annotated[Prose, Field(exclude_if=lambda value: value == "")] = ""

    @model_validator(mode="after")
    def _combined(self) -> Self:
        if self.aggregation != "mean" and self.name != "fedavg":
            raise ValueError(
                f"aggregation = '{self.aggregation}' goes with name = 'fedavg' alone: "
                f"'{self.name}' is defined on the mean"
            )
        if self.quorum < self.fewest_sites:
            raise ValueError(
                f"aggregation = '{self.aggregation}' needs {self._why_so_many} and so quorum = "
                f"{self.fewest_sites} or more, not {self.quorum}"
            )
        if self.sites and len(set(self.sites)) < max(self.quorum, len(self.sites)):
            raise ValueError(
                f"strategy.sites names {len(set(self.sites))} different sites: name each once, and no fewer "
                f"than strategy.quorum = {self.quorum}"
            )
        return self

    @property
    def evaluations(self) -> int:
        """How many times a run evaluates on each held-out row: in some rounds, and its result."""
        return len(range(1, self.rounds + 1, self.evaluate_every)) + 1

    def evaluates_in(self, number: int) -> bool:
        """Whether the incoming model of this round, counted from 1, is evaluated."""
        return (number - 1) % self.evaluate_every == 0

    @property
    def fewest_sites(self) -> int:
        """With fewer updates than these the aggregation would drop nothing, or not be defined."""
        match self.aggregation:
            case "mean":
                return 1
            case "median":
                return 3
            case "krum":
                return 2 * self.malicious_sites + 3
            case "trimmed-mean":
                sites = math.ceil(1 / self.trimmed_share)
                return sites if int(self.trimmed_share * sites) else sites + 1  # as Flower rounds it

    @property
    def _why_so_many(self) -> str:
        if self.aggregation == "krum":
            return f"2 · malicious_sites + 3 = {self.fewest_sites} sites"
        if self.aggregation == "trimmed-mean":
            return f"{self.fewest_sites} sites for trimmed_share = {self.trimmed_share:g} to drop any"
        return f"{self.fewest_sites} sites"


class Privacy(_Frozen):
    """What a run may learn of one record or one person, at each site.

    Neighbouring data sets differ by adding or removing one unit.

    Attributes:
        private: whether noise is added. A site's policy may refuse a run without.
        unit: whom ε protects: one `record`, or one `person` with all their rows, where the cards name a
            person.
        rows_per_person: how many rows of a person take part at most; the noise grows by that factor.
        epsilon, delta: bound one training run on the rows that it trains on.
        evaluation_epsilon: bounds all evaluations of that run on the held-out rows, which are other records.
        clipped_epsilon: the part of `epsilon` that all counts of `strategy.clipped_every` cost together, as
            if nothing else were released; training gets the noise that keeps both within `epsilon`. Left out,
            a tenth of `epsilon`, for which training has about one percent more noise.
        clipping_norm: the length that one unit's gradient is cut to.
        sampling_rate: the chance with which a record takes part in a step (Poisson sampling); 1 takes all.
        runs: how many runs may train on the same rows: with a sampling rate below 1 they cost least when that
            was said before the first.
        seed: of all random numbers, so that a run can be repeated; possible only with `private = false`, and
            marks the run so.
    """

    private: bool = True
    unit: Literal["record", "person"] = "record"
    rows_per_person: Annotated[int, Field(ge=1, le=1000)] = 1
    epsilon: Epsilon = 1.0
    delta: Delta = 1e-5
    evaluation_epsilon: Epsilon = 1.0
    clipped_epsilon: Annotated[Epsilon | None, _UNLESS(None)] = None
    clipping_norm: Annotated[float, Field(ge=1e-3, le=1e3)] = 1.0
    sampling_rate: Annotated[float, Field(ge=1e-4, le=1)] = 1.0
    runs: Count = 1
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.private and self.seed is not None:
            raise ValueError("a fixed seed makes noise predictable: remove seed or set private = false")
        if self.unit == "record" and self.rows_per_person != 1:
            raise ValueError("rows_per_person goes with unit = 'person'")
        if self.unit == "person" and self.sampling_rate != 1:
            raise ValueError("unit = 'person' needs sampling_rate = 1 (all rows of a person together)")
        if self.clipped_epsilon is not None and self.clipped_epsilon > self.epsilon / 2:
            raise ValueError(
                f"clipped_epsilon = {self.clipped_epsilon:g} is a part of epsilon = {self.epsilon:g}, and at "
                "most half of it: the rest is what training has"
            )
        return self


class Drift(_Frozen):
    """The drift check of one window against the reference window, at each site.

    Attributes:
        epsilon: bounds one check on the rows of its window.
        bins: of each numeric feature.
        false_alarm_rate: the chance that a check of a site without drift raises an alarm, over all features
            together.
        reference: which of the windows that the model was trained on are the reference window: all of them
            together, or those of the same season as the window that is checked. Where none of them is of
            that season, all are taken: a model is watched in every season, and the verdict says what it was
            compared with. Seasons need calendar windows.
    """

    epsilon: Epsilon = 0.5
    bins: Annotated[int, Field(ge=2, le=100)] = 10
    false_alarm_rate: Probability = 0.01
    # left out of the JSON where nothing is chosen: an older file keeps its digest, and so its approvals and
    # the references that were paid for
    reference: Annotated[
        Literal["all-windows", "same-season"], Field(exclude_if=lambda value: value == "all-windows")
    ] = "all-windows"

    def require_seasons(self, windows: Iterable[str]) -> None:
        """Refuse windows that have no season, where seasons are compared.

        Raises:
            InputError: with the first of them.
        """
        if self.reference == "all-windows":
            return
        for window in windows:
            try:
                season_of(window)
            except InputError as exc:
                raise InputError(exc.what, where=SEASONAL, remedy=CALENDAR) from exc

    def reference_of(self, windows: Collection[str], trained: tuple[str, ...]) -> tuple[str, ...]:
        """The reference of a check of these windows, among those that the model was trained on.

        Applied to its own result, it gives that again: so a site can tell a reference that is none.

        Raises:
            InputError: as `require_seasons`.
        """
        if self.reference == "all-windows":
            return trained
        self.require_seasons((*windows, *trained))
        seasons = {season_of(window) for window in windows}
        return tuple(window for window in trained if season_of(window) in seasons) or trained

    def references(self, trained: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
        """Every reference that checks of a model may have: that of each season, and of one not trained on.

        Raises:
            InputError: as `require_seasons`.
        """
        if self.reference == "all-windows":
            return (trained,)
        self.require_seasons(trained)
        seasons: dict[str, list[str]] = {}
        for window in trained:
            seasons.setdefault(season_of(window), []).append(window)
        found = [tuple(windows) for windows in seasons.values()]
        whole_year = len(seasons) == (4 if any(name[0] == "Q" for name in seasons) else 12)
        return tuple(dict.fromkeys(found if whole_year else [*found, trained]))


class Retraining(_Frozen):
    """When drift leads to a challenger.

    Attributes:
        enabled: whether it does.
        persistence, of: retrain when so many of the last `of` windows had an alarm.
        cooldown: so many windows after a retraining no other one begins.
        windows: on how many of the last windows a challenger is trained.
        approval: who puts a version into service, the first one too. `policy`: the gate, by itself;
            `reviewer`: a person must approve it too; `two-reviewers`: two must. A server may ask for more.
    """

    enabled: bool = True
    persistence: Count = 2
    of: Count = 3
    cooldown: Annotated[int, Field(ge=0, le=10_000)] = 2
    windows: Count = 3
    # left out of the JSON where nothing is chosen: see `Drift.reference`
    approval: Annotated[
        Literal["policy", "reviewer", "two-reviewers"], Field(exclude_if=lambda value: value == "policy")
    ] = "policy"

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.persistence > self.of:
            raise ValueError(f"persistence ({self.persistence}) cannot exceed of ({self.of})")
        return self


class Gate(_Frozen):
    """The acceptance rule for a challenger, on the same recent rows at every site.

    Attributes:
        metric: what champion and challenger are compared by; left out, `brier`, or `mae` where the label is
            numeric. The noise in a log loss is 3.7 times that in a Brier score, for a row may move it so much
            further.
        min_improvement: how much better the pooled metric must be; of a number in its own unit.
        max_site_regression: how much worse that of any site may be; left out, 0.03, or 2 % of the range of a
            numeric label.
        unknown_sites: what becomes of sites of which noise and few rows hide whether they are worse than
            that. `pooled`: each must surely not be by what it and the others say together, which is little
            where the others differ among themselves; `refuse`: no challenger is accepted while there is one;
            `allow`: they are named, and no more.
        one_site_may_promote: whether a gain at one site alone puts a challenger into service, where the
            others are surely no worse than that; what a site says of its own rows nobody can check. `false`:
            the gain must be there without any one site too, which finds only what helps several.
    """

    metric: Literal["log_loss", "brier", "auc", "accuracy", "mae", "rmse"] = "brier"
    min_improvement: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    max_site_regression: Annotated[float, Field(ge=0, le=1e6)] = 0.03
    # left out of the JSON where nothing is chosen: see `Drift.reference`
    unknown_sites: Annotated[
        Literal["pooled", "refuse", "allow"], Field(exclude_if=lambda value: value == "pooled")
    ] = "pooled"
    one_site_may_promote: Annotated[bool, Field(exclude_if=lambda value: value is True)] = True


class Placement(_Frozen):
    """Where the parts may run: raw data above 'public' never leaves its site.

    Attributes:
        data_sensitivity: of the rows.
        latency_ms: milliseconds within which a prediction is needed.
    """

    data_sensitivity: Literal["public", "internal", "confidential", "special-category"] = "confidential"
    latency_ms: Positive = 100.0

    @property
    def tier(self) -> Literal["cloud", "on-prem", "edge"]:
        """The tier that serves predictions."""
        if self.latency_ms < 50:
            return "edge"
        return "cloud" if self.data_sensitivity == "public" else "on-prem"


class Experiment(_Frozen):
    """One experiment file.

    Attributes:
        name: of the experiment, its models and its runs.
        data: the data set that the inline runtime and the demo lay out as sites; a deployed site reads its
            own `site.toml`.
        task: what is predicted, and from what.
        model: the model family.
        strategy: how rounds are run and aggregated.
        privacy: what a run may learn of one record or one person.
        drift: the drift check of a window.
        retraining: when drift leads to a challenger.
        gate: the acceptance rule for a challenger.
        placement: where the parts may run.
    """

    name: ExperimentName
    data: ExperimentName | None = None
    task: Task
    model: Model = Model()
    strategy: Strategy = Strategy()
    privacy: Privacy = Privacy()
    drift: Drift = Drift()
    retraining: Retraining = Retraining()
    gate: Gate = Gate()
    placement: Placement = Placement()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.strategy.update_bits == 8 and not self.privacy.private:
            raise ValueError(
                "strategy.update_bits = 8 needs privacy.private = true: noise hides the rounding"
            )
        if self.model.image is not None:
            channels, height, width = self.model.image
            if channels * height * width != self.task.width:
                raise ValueError(
                    f"model.image has {channels * height * width} values, "
                    f"the task has {self.task.width} inputs"
                )
        self._judge_by_a_metric_of_the_label()
        widths = (self.task.width, *self.model.hidden, max(1, len(self.task.label.classes)))
        parameters = sum((before + 1) * after for before, after in itertools.pairwise(widths))
        if self.model.kind == "mlp" and parameters > MOST_PARAMETERS:
            raise ValueError(f"the model has {parameters:,} parameters, and may have {MOST_PARAMETERS:,}")
        return self

    def _judge_by_a_metric_of_the_label(self) -> None:
        fitting = _OF_CLASSES if self.task.label.kind == "categorical" else _OF_NUMBERS
        if self.gate.metric in fitting:
            return
        if "metric" in self.gate.model_fields_set:
            raise ValueError(
                f"gate.metric = '{self.gate.metric}' is none of a {self.task.label.kind} label: "
                f"must be {' or '.join(fitting)}"
            )
        filled: dict[str, Any] = {"metric": fitting[0]}
        if "max_site_regression" not in self.gate.model_fields_set and self.task.label.range is not None:
            filled["max_site_regression"] = _LITTLE * (self.task.label.range.high - self.task.label.range.low)
        # the model is frozen once it is made; what was left out is filled in before
        self.__dict__["gate"] = self.gate.model_copy(update=filled)

    def counts_clipped_in(self, number: int) -> bool:
        """Whether sites count clipped gradients in this round: of the rounds from 1, and no other."""
        every = self.strategy.clipped_every
        if every is None or not self.privacy.private:  # without privacy nothing is clipped
            return False
        return 1 <= number <= self.strategy.rounds and (number - 1) % every == 0

    @property
    def clipped_counts(self) -> int:
        """In how many rounds of a run they do."""
        every = self.strategy.clipped_every
        if every is None or not self.privacy.private:
            return 0
        return len(range(1, self.strategy.rounds + 1, every))

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON: the plan's name in every record of it."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()
