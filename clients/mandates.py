"""Whether a scientist has signed what a server asks for, and whether the administrator trusts that scientist.

Trust comes from the site's own policy, never from the server: `policy.scientists` names public keys. Where
it names some, a request without a mandate that covers it, signed with one of these keys, is refused with
the word `policy` before the card or the ledger is asked. Where it names none, the administrator is told
what was found.

A mandate covers the rounds and the evaluations of one run, each once, as the experiment counts them: a
round more would spend more than was signed. One for ranges covers that question. A standing one covers, for
each window of a schedule, so many drift checks, trainings and comparisons (`contract.standing`): the name of
each run follows from the mandate, and a request that was answered is answered from the ledger.

It is good for one federation: that whose authority signed the certificate of the server with which the site
is connected. The agent says which that is, with each message (`AUTHORITY` in the node's configuration, which
no server writes); without an agent of ours it is the authority of the federation that the site has joined.

That a window is over, and what it may still spend, card and ledger are asked afterwards.

When it expires the site's own clock says. A clock may be wrong by `TOLERANCE`: so long after its end a
mandate is still good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from clients.policy import Policy
from contract.enrolment import key_fingerprint
from contract.errors import InputError, MessageError, PolicyError
from contract.experiment import Experiment
from contract.mandate import Mandate, authority_digest, mandate_for, read_mandate
from contract.messages import COMPARE, DRIFT_QUERY, RANGES_QUERY, Instruction
from contract.names import challenger_run
from contract.standing import Standing
from contract.words import counted

__all__ = ["AUTHORITY", "TOLERANCE", "Found", "authority_of", "examine"]

AUTHORITY = "authority"
"""Key of the node's configuration: the digest of the authority that signed the certificate of the server from
which a message came; empty where that cannot be said."""

TOLERANCE = timedelta(minutes=5)
_SAID = {
    "run": "another run",
    "experiment": "another experiment",
    "code": "other code than is installed here",
    "windows": "other windows",
    "authority": "another federation",
}


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a site found about the signature of a request.

    Attributes:
        key: the public key that has signed; empty where none has.
        name: whose it is, by the site's policy; empty where that names it not.
        digest: of the mandate; empty without one.
        expires: when it ends.
        covers: what a standing one covers, in words; empty for any other.
        fault: why it does not cover what is asked, in words; empty where it does.
    """

    key: str = ""
    name: str = ""
    digest: str = ""
    expires: datetime | None = None
    covers: str = ""
    fault: str = "not signed"

    def require(self, policy: Policy, *, where: str) -> None:
        """Refuse what none of the scientists has signed whom the policy names, if it names any.

        Raises:
            PolicyError: nobody has, or not this.
        """
        if policy.scientists is None or (self.name and not self.fault):
            return
        fault = self.fault
        if self.name:
            fault = f"signed by '{self.name}', but {fault}"
        elif self.key:
            fault = f"signed by {key_fingerprint(self.key)}, whom its policy does not name"
        raise PolicyError(
            f"this site answers only what a scientist of its policy has signed, and this is {fault}",
            where=where,
            remedy="If you trust the scientist, put the key that they tell you into policy.scientists",
        )


def examine(
    text: object,
    *,
    policy: Policy,
    experiment: Experiment,
    kind: str,
    instruction: Instruction,
    code: str,
    node: Mapping[str, object],
    now: datetime | None = None,
) -> Found:
    """Look at the mandate that came with a request.

    Args:
        text: as the run carries it; anything but a text is none.
        policy: names the scientists.
        experiment: that the run carries.
        kind: the message type.
        instruction: what is asked.
        code: the hash of the installed code.
        node: the node's configuration: names site.toml, and with an agent of ours `AUTHORITY`.
        now: by the site's clock.
    """
    if not isinstance(text, str) or not text:
        return Found()
    try:
        signed = read_mandate(text)
    except MessageError as exc:
        return Found(fault=exc.what)
    mandate = signed.mandate
    found = Found(
        key=signed.key,
        name=policy.name_of(signed.key),
        digest=mandate.digest,
        expires=mandate.expires,
        covers="" if mandate.standing is None else _words(mandate.standing),
    )
    try:
        authority = _said_authority(node[AUTHORITY]) if AUTHORITY in node else _joined_authority(node)
    except InputError as exc:
        return replace(found, fault=exc.what)
    asked = mandate_for(
        experiment,
        run=mandate.run if mandate.standing else instruction.run,
        windows=() if mandate.standing else instruction.windows,
        code=code,
        authority=authority,
        scientist=mandate.scientist,
        expires=mandate.expires,
        covers=mandate.standing or mandate.ranges,
    )
    fault = _fault(mandate, asked, now or datetime.now(UTC)) or _uncovered(
        mandate, experiment, kind, instruction
    )
    return replace(found, fault=fault)


def authority_of(root_certificates: bytes) -> str:
    """The digest of the only authority that these are of, in PEM form; empty where they are of several.

    A server of one of several could pass on what was signed for another's.
    """
    from cryptography.x509 import load_pem_x509_certificates

    try:
        alone = len(load_pem_x509_certificates(root_certificates)) == 1
        return authority_digest(root_certificates.decode("ascii")) if alone else ""
    except (ValueError, InputError):
        return ""


def _said_authority(said: object) -> str:
    """What the agent says.

    Raises:
        InputError: it cannot say which authority that is.
    """
    if isinstance(said, str) and said:
        return said
    raise InputError(
        "the root certificates are not of one authority alone, so no signature can be judged",
        where="--root-certificates",
        remedy="Name a file that holds the authority of the federation's server, and no other certificate",
    )


def _joined_authority(node: Mapping[str, object]) -> str:
    """The digest of the authority of the federation that the site has joined.

    Raises:
        InputError: it has joined none, or that cannot be told.
    """
    path = Path(str(node["site"])).parent / "keys" / "ca.pem"
    try:
        return authority_digest(path.read_text(encoding="ascii"))
    except FileNotFoundError as exc:
        raise InputError(
            "it is not known which federation asks, so no signature can be judged",
            where=str(path),
            remedy="Join the federation: `tidegate site join TOKEN`; or run the agent, `tidegate site up`",
        ) from exc
    except (OSError, ValueError, InputError) as exc:
        raise InputError(
            "the federation's authority cannot be read, so no signature can be judged",
            where=str(path),
            remedy="Join the federation again: `tidegate site join TOKEN`",
        ) from exc


def _fault(mandate: Mandate, asked: Mandate, now: datetime) -> str:
    if now > mandate.expires + TOLERANCE:
        return f"signed until {mandate.expires:%Y-%m-%d %H:%M %Z}, which is over"
    for name in Mandate.model_fields:
        if getattr(mandate, name) != getattr(asked, name):
            return f"signed for {_SAID.get(name, f'another {name}')}"
    return ""


def _uncovered(mandate: Mandate, experiment: Experiment, kind: str, instruction: Instruction) -> str:
    """Why it does not cover this question, whatever it says of the run; empty where it does."""
    if mandate.standing is not None:
        return _not_of_schedule(mandate.run, mandate.standing, experiment, kind, instruction)
    if mandate.ranges is not None:
        asked = (tuple(sorted(instruction.features)), instruction.epsilon)
        is_same = kind == RANGES_QUERY and asked == (mandate.ranges.features, mandate.ranges.epsilon)
        return "" if is_same else "signed for a question for ranges, and asked for another one"
    return _not_of_run(experiment, kind, instruction)


def _not_of_run(experiment: Experiment, kind: str, instruction: Instruction) -> str:
    """Why a training run of the experiment does not ask this; empty where it does.

    A site answers each request once, so what is asked here comes to the uses of the run's plans, and no more.
    """
    strategy, step = experiment.strategy, instruction.step
    if kind == "train":
        is_one = 1 <= step <= strategy.rounds and instruction.evaluate == strategy.evaluates_in(step)
    elif kind == "evaluate":
        is_one = step == strategy.rounds + 1
    else:
        return f"signed for a training run, and asked for '{kind}'"
    return (
        "" if is_one else "signed for the rounds and evaluations of its experiment, and asked for another one"
    )


def _not_of_schedule(
    run: str, standing: Standing, experiment: Experiment, kind: str, instruction: Instruction
) -> str:
    """Why the schedule does not ask this; empty where it does.

    A challenger's run is named by the window whose check led to it, which is the last that it is trained on.
    """
    if kind == RANGES_QUERY:
        return f"signed for a schedule, and asked for '{kind}'"
    window = instruction.windows[-1] if instruction.windows else ""
    if not standing.covers(window):
        return f"signed for {_words(standing)}, and asked for another window"
    names = standing.runs(run, window)
    is_check = kind == DRIFT_QUERY
    if instruction.run not in (names if is_check else map(challenger_run, names)):
        return f"signed for {_words(standing)}, and asked for another run"
    if is_check:
        return _not_a_check(standing, experiment, instruction)
    return _not_a_retraining(standing, experiment, kind, instruction)


def _not_a_retraining(standing: Standing, experiment: Experiment, kind: str, instruction: Instruction) -> str:
    """Why a challenger is not trained or compared so; empty where it is."""
    if not standing.may_train(instruction.windows[-1], instruction.windows, experiment):
        return "signed for what the experiment retrains on, and asked for other windows"
    if kind == COMPARE:
        return "" if instruction.step == 1 else "signed for one comparison, and asked for another one"
    return _not_of_run(experiment, kind, instruction)


def _not_a_check(standing: Standing, experiment: Experiment, instruction: Instruction) -> str:
    """Why the schedule makes no such drift check; empty where it does."""
    if len(instruction.windows) != 1 or instruction.step != 0:
        return "signed for one check of one window, and asked for another one"
    (window,) = instruction.windows
    try:
        may = standing.may_compare(window, instruction.reference_windows, experiment)
    except InputError as exc:
        return exc.what
    return "" if may else "signed for what its models are trained on, and asked for another reference"


def _words(standing: Standing) -> str:
    """Which windows it covers, and how often."""
    times = counted(standing.tries, "time")
    return f"{standing.first} to {standing.last}, each {standing.every} at most {times}"
