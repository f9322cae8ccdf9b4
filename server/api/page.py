"""The federation page, and the form before it, as HTML.

It is read only, for every role: what changes anything is a command. Without a script the page is whole, as of
the moment when it was loaded; `page.js` fetches it anew and puts the sections that changed in their place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from contract.federation_api import Round, Run, RunDetail, Site, waiting_words
from contract.figures import METRICS, figures_of
from contract.verdicts import Verdict
from contract.words import DECIDED
from server.api.drift_picture import draw, word
from server.api.overview import Drift, KeptSchedule, Overview, Spending
from server.state.people import Person
from terminal.markup import Content, Html, moment, table, tag

__all__ = ["federation_page", "sign_in_page"]

_MODELS = "/mlflow/#/models?workflowType=machine_learning"
"""MLflow's page of models, in its view for training; without that word it opens in another."""


def sign_in_page(problem: str = "") -> str:
    """The form that asks for a token.

    Args:
        problem: why the last one was not taken, in a sentence.
    """
    form = tag(
        "form",
        tag("label", "Your token", for_="token"),
        tag("input", id="token", name="token", type="password", autocomplete="off", required=True,
            maxlength=200, autofocus=True, aria_describedby="problem" if problem else "about"),
        tag("button", "Sign in", type="submit"),
        method="post", action="/sign-in",
    )  # fmt: skip
    about = (
        "The operator of the federation makes tokens (tidegate server person add). "
        "You stay signed in for eight hours at most, in this browser."
    )
    told = tag("p", problem, id="problem", class_="problem", role="alert") if problem else None
    main = tag(
        "main", tag("h1", "Tidegate"), told, form, tag("p", about, id="about", class_="about"), class_="door"
    )
    return _page("Sign in · Tidegate", main)


def federation_page(overview: Overview, person: Person, version: str) -> str:
    """All that the server knows of its federation, for one who is signed in."""
    head = tag(
        "header",
        tag("h1", "Federation"),
        tag("p", tag("span", person.name), tag("span", f" ({person.role})"), class_="who"),
        tag("a", "Models in MLflow", href=_MODELS),
        tag("form", tag("button", "Sign out", type="submit"), method="post", action="/sign-out"),
    )
    sections = [
        ("runs-now", "Runs that go on", [_running(one) for one in overview.running] or [_nothing_runs()]),
        ("queue", "Queue", [_queue(overview.queued)]),
        ("sites", "Sites", [_sites(overview), *_waiting(overview)]),
        ("drift", "Drift", _drifts(overview.drift)),
        ("schedules", "Schedules", _schedules(overview.schedules)),
        ("decisions", "Decisions", [_decisions(overview)]),
        ("runs", "Last runs", [_runs(overview.runs, overview.diagnoses)]),
    ]
    parts = [
        tag(
            "section",
            tag("h2", title, id=f"{name}-title"),
            *content,
            id=name,
            aria_labelledby=f"{name}-title",
        )
        for name, title, content in sections
    ]
    links = [tag("a", title, href=f"#{name}") for name, title, _ in sections]
    state = tag("p", "As of ", moment(overview.at), " UTC.", id="state")
    told = tag("p", id="told", class_="unseen", role="status")
    nav = tag("nav", *links, aria_label="Parts of the page")
    foot = tag("footer", f"Tidegate {version}. All times are UTC. The page changes nothing: commands do. ",
               tag("a", "What the API answers", href="/docs"))  # fmt: skip
    main = tag("main", state, told, *parts, id="federation")
    return _page("Federation · Tidegate", head, nav, main, foot)


def _page(title: str, *body: Content) -> str:
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("link", rel="stylesheet", href="/page.css"),
        tag("link", rel="icon", type="image/svg+xml", href="/icon.svg"),
        tag("script", src="/page.js", type="module"),
    )
    return f"<!doctype html>{tag('html', head, tag('body', *body), lang='en')}"


def _nothing_runs() -> Html:
    return tag("p", "No run goes on.", class_="empty")


def _running(detail: RunDetail) -> Html:
    run = detail.run
    done = (
        f"{run.rounds} of {run.of} rounds" if run.of else "a drift check" if run.job == "cycle" else run.job
    )
    bar = tag("progress", value=run.rounds, max=run.of, aria_label=done) if run.of else None
    owner = f"by {run.owner}, " if run.owner else ""
    return tag(
        "article",
        tag("h3", run.name),
        tag("p", f"{run.status}, {owner}since ", moment(run.since), ": ", tag("strong", done), " ", bar),
        tag("p", waiting_words(run.unapproved)) if run.unapproved else None,
        _rounds(detail.rounds) if run.of else None,
        _participation(detail),
        data_run=run.name,
    )


def _rounds(rounds: Sequence[Round]) -> Html:
    shown = [one for one in figures_of(_names(rounds)) if one.name in ("log_loss", "auc", "mae", "r2")]
    rows: list[tuple[Html | str | int | None, ...]] = [
        (
            one.number,
            ", ".join(one.counted) or "–",
            "; ".join(f"{site}: {reason}" for site, reason in one.failures.items()) or "–",
            *(_figure(one, item.name) for item in shown),
            f"{one.seconds:.1f}",
        )
        for one in rounds[-5:][::-1]
    ]
    headings = ("round", "counted", "not counted", *(item.word for item in shown), "seconds")
    return table("Finished rounds, the last five", headings, rows, empty="No round is finished yet.")


def _names(rounds: Sequence[Round]) -> set[str]:
    found = (one.metrics.get("overall") for one in rounds)
    return {name for overall in found if isinstance(overall, dict) for name in overall}


def _figure(one: Round, name: str) -> str:
    """Of all sites, with its standard error; words where there is none."""
    overall: Any = one.metrics.get("overall")
    if not isinstance(overall, dict):
        return "not evaluated"
    value, error = overall.get(name), (overall.get("errors") or {}).get(name)
    if not isinstance(value, int | float):
        return "too noisy"
    return METRICS[name].told(value, error if isinstance(error, int | float) else None)


def _participation(detail: RunDetail) -> Html:
    rows = [
        (one.site, one.state, one.reason or "–", one.what_to_do or "–", moment(one.since))
        for one in detail.participation
    ]
    last = detail.participation[-1] if detail.participation else None
    where = "" if last is None else f"round {last.number}" if last.kind == "train" else last.kind
    headings = ("site", "state", "reason", "what to do", "since")
    return table(f"Sites in {where}", headings, rows, empty="No site was asked yet.")


def _queue(queued: Sequence[Run]) -> Html:
    rows = [(one.place, one.name, one.experiment, one.owner or "–", moment(one.since)) for one in queued]
    headings = ("place", "run", "experiment", "by", "since")
    return table("Runs that wait for their turn", headings, rows, empty="The queue is empty.")


def _sites(overview: Overview) -> Html:
    reasons = {
        one.site: f"{one.reason} (run {detail.run.name})"
        for detail in overview.running
        for one in detail.participation
        if one.reason
    }
    rows = [
        (
            site.name,
            _standing(site),
            reasons.get(site.name, "–"),
            "–" if site.stated_rows is None else f"{site.stated_rows:,}",
            moment(site.last_answer),
            _counted(overview.spending.get(site.name)),
        )
        for site in overview.sites
    ]
    headings = (
        "site",
        "stands",
        "in runs that go on",
        "stated rows",
        "last answer",
        "privacy counted so far",
    )
    return table("Sites of the federation", headings, rows, empty="No site was let in yet.")


def _standing(site: Site) -> Html:
    if not site.admitted:
        return _mark("off", "not admitted")
    if site.connected is None:
        return _mark("off", "let in; whether it is connected is not known")
    return _mark("on", "connected") if site.connected else _mark("off", "not connected")


def _mark(kind: str, words: str) -> Html:
    sign = {"on": "●", "off": "○", "alarm": "▲"}[kind]
    return tag("span", tag("span", f"{sign} ", aria_hidden="true"), words, class_=f"mark {kind}")


def _counted(spent: Spending | None) -> Html | str:
    if spent is None:
        return "not known"
    words = f"ε {spent.epsilon or 0:.3g} at δ {spent.delta:g} by {spent.unit}"
    if spent.epsilon is None:
        words = "no bound: something was asked without privacy"
    return tag("span", f"{words}, on ", moment(spent.at), title=f"as run {spent.run} ended")


def _waiting(overview: Overview) -> list[Html]:
    asked = [
        (
            one.name,
            _mark("alarm", "waits to be let in"),
            one.fingerprint,
            f"{one.stated_rows:,}",
            moment(one.asked),
            "another key came with its token, and was refused" if one.rival is not None else "–",
        )
        for one in overview.waiting.asked
    ]
    invited = [
        (one.name, "invited, and has not asked yet", "–", "–", moment(one.made), "–")
        for one in overview.waiting.invited
    ]
    headings = ("site", "stands", "fingerprint of its key", "stated rows", "since", "note")
    if not asked and not invited:
        return []
    how = (
        "The operator lets a site in with tidegate server confirm, "
        "once its administrator has read out the fingerprint."
    )
    return [table("Sites that are not in yet", headings, [*asked, *invited], empty=""), tag("p", how)]


def _drifts(found: Sequence[Drift]) -> list[Html]:
    if not found:
        return [tag("p", "No window was checked for drift yet.", class_="empty")]
    return [part for one in found for part in _drift(one)]


def _drift(drift: Drift) -> list[Html]:
    rows = [_verdict_row(name, one, drift) for name, one in list(drift.windows.items())[::-1]]
    headings = ("window", "verdict", "sites", "features", "decision")
    earlier = f"{drift.left_out} earlier windows are not shown." if drift.left_out else None
    return [
        tag("h3", drift.experiment),
        tag("div", draw(drift), class_="wide", tabindex=0, role="region",
            aria_label=f"Drift of {drift.experiment}: windows and sites"),
        tag("details", tag("summary", f"{drift.experiment}, in words"),
            table(f"Windows of {drift.experiment}", headings, rows, empty=""),
            id=f"words-{drift.experiment}"),
        *([tag("p", earlier)] if earlier else []),
    ]  # fmt: skip


def _verdict_row(window: str, verdict: Verdict | str, drift: Drift) -> tuple[Content, ...]:
    if isinstance(verdict, str):
        return window, verdict, "–", "–", drift.decisions.get(window, "–")
    sites = [site for site in drift.sites if word(verdict, site) == "drift"]
    features = sorted({name for site in (*verdict.sites, verdict.pooled) for name in site.drifted})
    told = _mark("alarm", "alarm") if verdict.alarm else "quiet"
    return window, told, ", ".join(sites) or "–", ", ".join(features) or "–", drift.decisions.get(window, "–")


def _schedules(kept: Sequence[KeptSchedule]) -> list[Html]:
    rows = [
        (
            one.schedule.experiment,
            one.schedule.every,
            one.schedule.first,
            sum(check.state == "done" for check in one.checks),
            sum(check.state == "not judged" for check in one.checks),
            one.waits,
        )
        for one in kept
    ]
    headings = ("experiment", "every", "from", "done", "not judged", "now")
    parts = [table("Which experiments are watched", headings, rows, empty="Nothing is scheduled.")]
    open_ones = [
        (
            f"{one.schedule.experiment} {check.window}",
            check.state,
            check.attempts,
            moment(check.due),
            check.detail or "–",
        )
        for one in kept
        for check in one.checks
        if check.state != "done"
    ]
    if open_ones:
        of_windows = ("window", "state", "tries", "due", "what came of it")
        parts.append(table("Windows that are not done", of_windows, open_ones[-50:], empty=""))
    return parts


def _decisions(overview: Overview) -> Html:
    rows = [
        (
            moment(one.time),
            one.experiment,
            one.window or "–",
            DECIDED.get(one.kind, one.kind),
            one.subject,
            one.by,
            one.reason or "–",
        )
        for one in overview.decisions
    ]
    headings = ("time", "experiment", "window", "decision", "on", "by", "why")
    return table(
        "The last decisions of the policy and of people", headings, rows, empty="Nothing was decided."
    )


def _runs(runs: Sequence[Run], diagnoses: Mapping[str, str]) -> Html:
    rows = [
        (
            one.name,
            one.job,
            one.status,
            f"{one.rounds} of {one.of}" if one.of else "–",
            one.model_version,
            one.owner or "–",
            moment(one.since),
            " ".join(filter(None, (one.error, diagnoses.get(one.name)))) or "–",
        )
        for one in runs
    ]
    headings = ("run", "job", "status", "rounds", "version", "by", "since", "what happened")
    return table(
        "Runs that have ended or are about to begin, newest first", headings, rows, empty="No run yet."
    )
