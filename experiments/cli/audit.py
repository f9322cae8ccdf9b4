"""`tidegate audit`: attack the training of this installation, and compare with what its ledgers state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from contract.experiment import Experiment
    from experiments.audit.hostile import Attempt
    from experiments.audit.probes import Finding

__all__ = ["audit"]


def audit(
    file: Annotated[
        Path | None,
        typer.Argument(help="An experiment file whose privacy settings are audited; else the default ones."),
    ] = None,
    runs: Annotated[
        int, typer.Option(min=10, help="Runs to attack; more make the lower bound tighter.")
    ] = 250,
    seed: Annotated[int, typer.Option(min=0, help="Of the canaries' coins; noise is the system's.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Draw a picture (.png, .svg or .pdf).")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Attack real training runs, and a site by hand-made messages. Exit code 1 if a statement does not hold.

    Two parts. An attacker who knows every row but one guesses whether it was there: what ε does that
    prove, against the ledger's? And a server that writes its own messages: does a site let out what it
    did not charge?
    """
    import logging

    from experiments.audit.hostile import ATTACKS, attack_site
    from experiments.audit.probes import audit as run_probes
    from server.settings import apply_quiet_environment
    from terminal.output import Steps, cell, figure, print_json, print_table, quiet_flower, say

    apply_quiet_environment()
    quiet_flower()
    logging.getLogger("tidegate.site").setLevel(
        logging.CRITICAL
    )  # of values outside their range, and of refusals: they are meant
    experiment = _experiment(file)
    probes = 5 if experiment.privacy.sampling_rate < 1 else 4
    steps = Steps("audit", probes + len(ATTACKS), silent=json)
    attempts: list[Attempt] = []
    try:
        findings = run_probes(experiment, runs=runs, seed=seed, progress=steps.show)
        for attempt in attack_site():
            attempts.append(attempt)
            steps.show(len(findings) + len(attempts))
    finally:
        steps.close()
    if plot is not None:
        from experiments.audit.picture import draw

        draw(findings, plot)
    if json:
        parts: dict[str, Sequence[Finding | Attempt]] = {"probes": findings, "attacks": attempts}
        print_json(
            {name: [{**vars(item), "alarm": item.alarm} for item in part] for name, part in parts.items()}
        )
    else:
        print_table(
            ("probe", "ε stated", "ε at least", "share", "wrong", "verdict"),
            (
                (
                    finding.probe,
                    figure(finding.stated),
                    _bound(finding.lower_bound),
                    f"{finding.lower_bound / finding.stated:.0%}" if finding.stated else "–",
                    f"{finding.errors / finding.trials:.1%} of {finding.trials:,}",
                    cell("DISPROVED", "bold red") if finding.alarm else "holds",
                )
                for finding in findings
            ),
            title=f"What an attacker proves with 95 % confidence, who knows every row but one "
            f"(δ = {findings[0].delta:g}, {sum(finding.seconds for finding in findings):.0f} s)",
        )
        print_table(
            ("a server that writes its own messages", "tries", "let through", "verdict"),
            (
                (
                    attempt.attack,
                    f"{attempt.tries}",
                    f"{attempt.let_through}",
                    cell("LETS THROUGH", "bold red") if attempt.alarm else "holds",
                )
                for attempt in attempts
            ),
            title=f"What a site lets out that it did not charge "
            f"({sum(attempt.seconds for attempt in attempts):.0f} s)",
        )
        for line, style in _conclusion(findings, attempts):
            say(line, style)
        if plot is not None:
            say(f"picture: {plot}")
    if any(finding.alarm for finding in findings) or any(attempt.alarm for attempt in attempts):
        raise typer.Exit(1)


def _experiment(file: Path | None) -> Experiment:
    from contract.errors import ExperimentError
    from contract.experiment import Experiment, Label, NumericFeature, Task
    from terminal.experiment_files import read_experiment

    if file is None:
        task = Task(
            label=Label(column="label"), features=(NumericFeature(name="x", kind="numeric", low=0, high=1),)
        )
        return Experiment(name="defaults", task=task)
    experiment = read_experiment(file)
    if not experiment.privacy.private:
        raise ExperimentError(
            "the experiment states no ε that could be audited",
            where=f"{file}: privacy.private",
            remedy="Set privacy.private = true",
        )
    return experiment


def _bound(epsilon: float) -> str:
    return f"{epsilon:.3f}" if epsilon != float("inf") else "∞"


def _conclusion(findings: list[Finding], attempts: list[Attempt]) -> list[tuple[str, str]]:
    """Sentences, each with its style."""
    alarms = [_alarm(finding) for finding in findings if finding.alarm]
    alarms += [
        f"{attempt.attack}: {attempt.let_through} of {attempt.tries} tries told what was not charged"
        for attempt in attempts
        if attempt.alarm
    ]
    if not alarms:
        words = (
            "No statement was disproved. That is no proof: it is how far this attacker came. "
            "A false alarm has a chance of one in a million."
        )
        return [(words, "")]
    return [
        ("What the ledger states does not hold for what was run:", "bold red"),
        *((f"  {alarm}", "") for alarm in alarms),
        ("Release nothing with this installation until it is found out why.", ""),
    ]


def _alarm(finding: Finding) -> str:
    if not finding.independent:
        return f"{finding.probe}: the noise of a release is not independent from number to number"
    return f"{finding.probe}: stated ε = {finding.stated:.3g}, proven above {_bound(finding.proven)}"
