"""A site's part of every exchange, from the message to the reply.

    1. parse: the experiment that the run carries, the instruction and the model, whole; and has a scientist
       signed it whom the policy names
    2. ask: does the card offer it, does the policy allow it, has the administrator approved it, is the
       source there
    3. charge: the ledger is charged for every release of the reply, on disk
    4. read: the rows are read, the mechanisms run, the gate makes the reply
    5. the reply's bytes go out

In steps 1 to 3 the answer may be no, in one word. No row was read for it, so it says nothing of
any. From step 4 on there is a reply, whatever the rows hold: rows that do not fit are left out, a
window without rows gives noise. What can fail then is a disk, a database or this program; the word
for that is `failed`. Every refusal is a line of the egress log.

Five messages are understood: `train`, `evaluate`, `evaluate.compare`,
`query.drift` and `query.ranges`. Nothing else is, and nothing here makes a reply: the gate does.

What reading and computing take in time, and whether memory and time suffice for them, depends on how
many rows there are; docs/privacy.md says what of that is not covered.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from clients.code import installed_code_hash
from clients.gate import Releases
from clients.ledger.chain import Plan
from clients.ledger.cost import can_pay
from clients.ledger.plans import (
    asked_windows,
    clipped_plan,
    compare_plan,
    drift_plan,
    evaluate_plan,
    ranges_plan,
    reference_plan,
    retraining_plans,
    train_plan,
)
from clients.mandates import Found, examine
from clients.mechanisms.noise import NoNoise, NormalSource, SystemNoise
from clients.policy import Policy
from clients.requests import Request, Signature
from clients.site import Site, open_site
from contract.errors import (
    ApprovalError,
    MessageError,
    PolicyError,
    RefusalCode,
    SilentError,
    SiteConfigError,
    StorageError,
    TidegateError,
)
from contract.experiment import Experiment
from contract.messages import CHALLENGER, DRIFT_QUERY, Instruction, Reply, model_arrays, read_experiment_json
from contract.quantization import is_quantized, quantize
from contract.releases import Array
from terminal.logs import PlainRecords

if TYPE_CHECKING:
    import torch

__all__ = ["app", "warm_up"]

_log = logging.getLogger("tidegate.site")
_log.addFilter(PlainRecords())  # in whichever process it is: a name of a message may be in a line

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Evaluate the incoming model if asked to, then train it."""
    return _answer(message, context, _train)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the incoming model on held-out rows."""
    return _answer(message, context, _evaluate)


@app.evaluate("compare")
def compare(message: Message, context: Context) -> Message:
    """Compare a challenger with the champion on the same held-out rows."""
    return _answer(message, context, _compare)


@app.query("drift")
def drift(message: Message, context: Context) -> Message:
    """Write the drift report, which stays here, and release noisy counts."""
    return _answer(message, context, _drift)


@app.query("ranges")
def ranges(message: Message, context: Context) -> Message:
    """Release noisy counts of features whose range nobody knows in public."""
    return _answer(message, context, _ranges)


def warm_up() -> None:
    """Import what the first message would wait for: seconds of it."""
    import pandas  # noqa: F401
    import pyarrow  # noqa: F401

    import clients.mechanisms.evaluation
    import clients.mechanisms.training  # noqa: F401

    installed_code_hash()  # of what this process runs, whatever is installed while it does


class _Exchange:
    """One message, parsed and allowed: the site, the experiment, the instruction and the noise."""

    def __init__(self, message: Message, context: Context) -> None:
        self.site: Site = open_site(_site_file(context))
        self.site.begin_exchange()
        self.experiment = read_experiment_json(context.run_config.get("experiment"))
        self.instruction, self.packed = Instruction.from_records(message.content)
        self.kind = message.metadata.message_type
        self.request = self.instruction.request(self.kind)
        self.signature = self._require_signed(context, self.site.config.policy)
        self.trigger = str(context.run_config.get("trigger", ""))
        self.private = self.experiment.privacy.private
        self.models: tuple[dict[str, np.ndarray[Any, np.dtype[np.float32]]], ...] = ()
        self._prefixes: tuple[str, ...] = ()
        self.device = self.site.config.agent.device
        self._scoring: torch.device | None = None
        self.noise: NormalSource = SystemNoise() if self.private else NoNoise()

    def _require_signed(self, context: Context, policy: Policy) -> Found:
        """Who has signed what is asked; refuses it where the policy wants a signature and there is none."""
        found = examine(
            context.run_config.get("mandate"),
            policy=policy,
            experiment=self.experiment,
            kind=self.kind,
            instruction=self.instruction,
            code=installed_code_hash(),
            node=context.node_config,
        )
        found.require(policy, where=f"site '{self.site.config.name}'")
        return found

    def ask_card(self, *, unranged: tuple[str, ...] = ()) -> None:
        """Refuse what the card does not offer, and see that the source is there."""
        instruction = self.instruction
        windows = (*instruction.windows, *instruction.reference_windows)
        self.site.require_offered(self.experiment, windows, unranged=unranged)

    def require_no_model(self) -> None:
        """Refuse arrays where none are needed."""
        if self.packed:
            raise MessageError(f"{len(self.packed):,} bytes of arrays came with a question for counts")

    def take_models(self, *prefixes: str) -> None:
        """Read the parameters that came, once for each prefix, into `models`.

        Those of a package are read once the policy has allowed it, for its code says their shapes.
        """
        self._prefixes = prefixes
        if self.experiment.model.kind != "package":
            self.models = model_arrays(self.packed, self.experiment, prefixes=prefixes)

    def release(
        self,
        plans: list[Plan],
        compute: Callable[[], Releases],
        *,
        request: str = "",
        require: Callable[[], None] = lambda: None,
    ) -> bytes:
        """Through the gate; what is not private asks nothing of the machine, but of a package's model."""
        packaged = self.experiment.model.kind == "package"

        def able() -> None:
            if self.private or packaged:
                require()
            if packaged and self._prefixes:
                self.models = model_arrays(self.packed, self.experiment, prefixes=self._prefixes)

        return self.site.gate.release(
            request or self.request,
            self.experiment,
            plans,
            compute,
            able,
            windows=self.windows,
            mandate="" if self.signature.fault else self.signature.digest,
        )

    @property
    def windows(self) -> tuple[str, ...]:
        """Whose rows are read."""
        return asked_windows(self.kind, self.instruction)

    def require_scoring(self) -> None:
        """Refuse to evaluate the model on a machine that cannot; note which device of it can."""
        from clients.mechanisms.evaluation import require_places

        self._scoring = require_places(self.experiment, self.device)

    @property
    def scoring_device(self) -> torch.device:
        """Where the model is evaluated: without a trial on the processor."""
        from clients.mechanisms.devices import CPU

        return self._scoring or CPU

    def counted_plan(self) -> Plan | None:
        """What the counts of clipped gradients cost that belong to this round; None where none do.

        The experiment alone says in which rounds they are made: no message can ask for one.
        """
        if not self.experiment.counts_clipped_in(self.instruction.step):
            return None
        return clipped_plan(self.experiment, self.instruction, self.site.split)

    def enter_request(self) -> str:
        """Have the administrator asked; the word for the server.

        A record that is full or cannot be written changes nothing in the word: the server could fill it, or
        find by it how full the disk is.
        """
        now = datetime.now(UTC)
        request = Request(
            plan=self.experiment,
            code=installed_code_hash(),
            kind=self.kind,
            asked=self.instruction,
            trigger=self.trigger[:300],
            first=now,
            last=now,
            times=1,
            signature=Signature.of(self.signature),
        )
        try:
            if not self.site.requests.enter(request):
                _log.error("the record of requests is full: %s is not entered", self.request)
        except PolicyError as exc:
            _log.error("%s", exc)
            return exc.code
        except StorageError as exc:
            _log.error("%s", exc)
        return RefusalCode.APPROVAL

    def rng(self) -> np.random.Generator:
        """Of a run that is not private: repeatable from seed, step and site."""
        seed = self.experiment.privacy.seed or 0
        return np.random.default_rng(
            [seed, self.instruction.step, zlib.crc32(self.site.config.name.encode())]
        )


def _train(exchange: _Exchange) -> bytes:
    from clients.mechanisms import evaluation as scoring
    from clients.mechanisms import training
    from clients.mechanisms.clipped_counts import count_clipped
    from clients.mechanisms.devices import CPU
    from clients.mechanisms.training import LocalSteps, train_locally, train_without_privacy

    experiment, instruction, site = exchange.experiment, exchange.instruction, exchange.site
    exchange.take_models("")
    exchange.ask_card()
    training_device = CPU
    plan = train_plan(experiment, instruction, site.split)
    evaluation = evaluate_plan(experiment, instruction, site.split)
    counted = exchange.counted_plan()

    def compute() -> Releases:
        (model,) = exchange.models
        scores = clipped = None
        if instruction.evaluate:
            held_out = site.table(experiment, instruction.windows, holdout=True)
            deviation = evaluation.noise_multiplier * experiment.privacy.rows_per_person
            scores = scoring.evaluate(
                model,
                held_out,
                experiment,
                noise_multiplier=deviation,
                noise=exchange.noise,
                device=exchange.scoring_device,
            )
        rows = site.table(experiment, instruction.windows, holdout=False)
        if not exchange.private:
            update = train_without_privacy(model, rows, experiment, exchange.rng(), exchange.device)
        else:
            steps = LocalSteps(
                experiment=experiment,
                stated_rows=site.config.stated_rows,
                noise_multiplier=plan.noise_multiplier,
                device=training_device,
            )
            if counted is not None:
                counts_of = replace(steps, noise_multiplier=counted.noise_multiplier)
                clipped = count_clipped(model, rows, counts_of, exchange.noise)
            update = train_locally(model, rows, steps, exchange.noise)
        if is_quantized(experiment):
            update = quantize(update, model)
        return Releases(update=update, clipped=clipped, scores=scores)

    def require() -> None:
        nonlocal training_device
        training_device = training.require_places(experiment, site.config.stated_rows, exchange.device)
        if instruction.evaluate:
            exchange.require_scoring()

    plans = [plan]
    plans += [evaluation] if instruction.evaluate else []
    plans += [] if counted is None else [counted]
    return exchange.release(plans, compute, require=require)


def _evaluate(exchange: _Exchange) -> bytes:
    from clients.mechanisms.evaluation import evaluate as evaluate_scores

    experiment, instruction, site = exchange.experiment, exchange.instruction, exchange.site
    exchange.take_models("")
    exchange.ask_card()
    plan = evaluate_plan(experiment, instruction, site.split)
    deviation = plan.noise_multiplier * experiment.privacy.rows_per_person

    def compute() -> Releases:
        (model,) = exchange.models
        held_out = site.table(experiment, instruction.windows, holdout=True)
        return Releases(
            scores=evaluate_scores(
                model,
                held_out,
                experiment,
                noise_multiplier=deviation,
                noise=exchange.noise,
                device=exchange.scoring_device,
            )
        )

    return exchange.release([plan], compute, require=exchange.require_scoring)


def _compare(exchange: _Exchange) -> bytes:
    from clients.mechanisms.evaluation import compare as compare_models

    experiment, instruction, site = exchange.experiment, exchange.instruction, exchange.site
    exchange.take_models("", CHALLENGER)
    exchange.ask_card()
    plan = compare_plan(experiment, instruction, site.split)
    deviation = plan.noise_multiplier * experiment.privacy.rows_per_person

    def compute() -> Releases:
        champion, challenger = exchange.models
        held_out = site.table(experiment, instruction.windows, holdout=True)
        scores, challenger_scores, comparison = compare_models(
            champion,
            challenger,
            held_out,
            experiment,
            noise_multiplier=deviation,
            noise=exchange.noise,
            device=exchange.scoring_device,
        )
        return Releases(scores=scores, challenger_scores=challenger_scores, comparison=comparison)

    return exchange.release([plan], compute, require=exchange.require_scoring)


def _drift(exchange: _Exchange) -> bytes:
    from clients.mechanisms.drift import drift_deviation, noisy_counts, summarise, write_local_report

    experiment, instruction, site = exchange.experiment, exchange.instruction, exchange.site
    exchange.require_no_model()
    exchange.ask_card()
    _require_reference(experiment, instruction)
    plan = drift_plan(experiment, instruction, site.split)
    deviation = drift_deviation(experiment, plan.noise_multiplier)
    reference: dict[str, Array] = {}
    if site.gate.stored(exchange.request, experiment) is None:  # a check asked again pays for no reference
        plans = [reference_plan(experiment, instruction.reference_windows, site.split), plan]
        site.gate.check(experiment, plans, windows=exchange.windows)
        reference = _reference_counts(exchange)

    def compute() -> Releases:
        current = site.rows(instruction.windows)
        counts = noisy_counts(current, experiment, site.card, deviation, exchange.noise)
        summary = summarise(
            windows=instruction.windows,
            reference_windows=instruction.reference_windows,
            reference=reference,
            current=counts,
            deviation=deviation,
            can_train=can_pay(site.ledger, retraining_plans(experiment, instruction, site.split)),
        )
        return Releases(drift=summary)

    reply = exchange.release([plan], compute)
    if not site.config.storage.drift_reports:
        return reply
    try:
        frames = (site.rows(instruction.reference_windows).frame, site.rows(instruction.windows).frame)
        write_local_report(*frames, experiment, instruction, site.config.storage.reports)
    except Exception:
        _log.exception("the drift report of %s was not written", exchange.request)
    return reply


def _require_reference(experiment: Experiment, instruction: Instruction) -> None:
    """Refuse a reference that is not such as the experiment says, which the administrator has approved.

    Raises:
        MessageError: its windows are of this season and of others.
    """
    reference = instruction.reference_windows
    if experiment.drift.reference_of(instruction.windows, reference) != reference:
        raise MessageError(
            "the reference is of several seasons, and the experiment compares a window with its own",
            where=DRIFT_QUERY,
        )


def _reference_counts(exchange: _Exchange) -> dict[str, Array]:
    """The reference's noisy counts: released and charged once, then taken from the ledger."""
    from clients.mechanisms.drift import drift_deviation, noisy_counts
    from contract.releases import ReferenceCounts

    experiment, site = exchange.experiment, exchange.site
    windows = exchange.instruction.reference_windows
    plan = reference_plan(experiment, windows, site.split)
    deviation = drift_deviation(experiment, plan.noise_multiplier)

    def compute() -> Releases:
        counts = noisy_counts(site.rows(windows), experiment, site.card, deviation, exchange.noise)
        return Releases(reference=ReferenceCounts(counts=counts, deviation=deviation))

    released = Reply.from_bytes(exchange.release([plan], compute, request=f"{plan.name}/1")).reference
    assert released is not None  # a reference plan releases reference counts  # noqa: S101
    return released.counts


def _ranges(exchange: _Exchange) -> bytes:
    from clients.mechanisms.ranges import noisy_range_counts, ranges_deviation, require_numeric
    from contract.releases import RangeSummary

    experiment, instruction, site = exchange.experiment, exchange.instruction, exchange.site
    exchange.require_no_model()
    require_numeric(experiment.task, instruction.features)
    exchange.ask_card(unranged=instruction.features)
    plan = ranges_plan(experiment, instruction, site.split)
    deviation = ranges_deviation(experiment, len(instruction.features), plan.noise_multiplier)

    def compute() -> Releases:
        rows = site.rows(instruction.windows)
        counts = noisy_range_counts(rows, experiment, instruction.features, deviation, exchange.noise)
        return Releases(ranges=RangeSummary(features=counts, noise_deviation=deviation))

    return exchange.release([plan], compute, request=f"{plan.name}/1")


def _answer(message: Message, context: Context, handle: Callable[[_Exchange], bytes]) -> Message:
    """The reply, or a refusal: one word for the server, the whole sentence for the site's own log.

    Raises:
        SilentError: too many were refused; there is no answer.
    """
    exchange: _Exchange | None = None
    request = _request(message)
    try:
        exchange = _Exchange(message, context)
        written = handle(exchange)
        return Message(Reply.records_of(written, exchange.site.gate.anchor), reply_to=message)
    except ApprovalError as exc:
        _log.warning("%s: %s", request, exc)
        word = exc.code if exchange is None else exchange.enter_request()
        # without its step: a run that waits is asked in each round, and that it waits is entered once
        request = request if exchange is None else f"{exchange.instruction.run}/{exchange.kind}"
    except TidegateError as exc:
        _log.error("refused %s: %s", request, exc)
        word = exc.code
    except Exception:
        # Its text may hold a data value: it stays in the site's log.
        _log.exception("failed %s", request)
        word = RefusalCode.FAILED
    _enter_refusal(request, context, word)
    return Message(Error(code=0, reason=word), reply_to=message)


def _enter_refusal(request: str, context: Context, word: str) -> None:
    """A line of the egress log; where there is no ledger to write to, there is none."""
    try:
        open_site(_site_file(context)).gate.refuse(request, word)
    except SilentError:
        raise
    except TidegateError as exc:
        _log.error("the refusal of %s is not in the egress log: %s", request, exc)


def _request(message: Message) -> str:
    """Run, kind and round, as the server calls them; without, the kind."""
    return message.metadata.group_id or message.metadata.message_type


def _site_file(context: Context) -> Path:
    path = context.node_config.get("site")
    if not path:
        raise SiteConfigError(
            "no site.toml is named",
            where="the node's configuration",
            remedy="Start the node with --node-config 'site=\"/path/to/site.toml\"'",
        )
    return Path(str(path))
