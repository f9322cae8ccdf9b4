"""What people may ask of MLflow: what is listed here, and nothing else.

Everybody reads. A reviewer and an operator also write what is theirs: tags and descriptions. What the service
account alone writes is refused to all, because others rely on it: aliases, for the champion is what sites
serve; a version's description, for it is the passport; the tags `tidegate.…`; and nothing is ever deleted.
The tag `review` of a version is a reviewer's word on it (`ReviewTag`), and is entered as such before it is
written.
MLflow itself keeps nobody from anything, and reads one body in several ways. So a writing request is parsed
here, and what is passed on is written anew.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.exceptions import HTTPException

from contract.names import ExperimentName
from contract.roles import Role

__all__ = ["ReviewTag", "allowed_body", "is_artifact", "review_tag"]

_REST = r"/(?:api|ajax-api)/2\.0/mlflow/"
_REST_3 = r"/(?:api|ajax-api)/3\.0/mlflow/"
_READS = {
    "GET": re.compile(
        rf"/|/version|/health|/static-files/.+|/get-artifact|/model-versions/get-artifact"
        rf"|{_REST}(?:artifacts/list|experiments/(?:get|get-by-name|search)|runs/get"
        rf"|metrics/(?:get-history|get-history-bulk|get-history-bulk-interval)"
        rf"|registered-models/(?:get|search|alias|get-latest-versions)"
        rf"|model-versions/(?:get|search|get-download-uri)"
        rf"|logged-models/[\w-]+(?:/artifacts/(?:directories|files))?)"
        rf"|{_REST_3}(?:server-info|ui-telemetry)"
        rf"|/(?:api|ajax-api)/2\.0/mlflow-artifacts/artifacts(?:/.+)?"
    ),
    "POST": re.compile(
        rf"/graphql|{_REST}(?:experiments/(?:search|search-datasets)|runs/search|logged-models/search"
        rf"|registered-models/get-latest-versions)"
        rf"|{_REST_3}(?:traces/search|traces/metrics|datasets/search)"
    ),
}
_ARTIFACT = re.compile(
    r"/get-artifact|/model-versions/get-artifact|.*/artifacts/files|.*/mlflow-artifacts/.*"
)
_WRITERS: tuple[Role, ...] = ("reviewer", "operator")
_OURS = ("tidegate.", "mlflow.")
_NOTE = "mlflow.note.content"
"""What MLflow's pages call the description of a run or an experiment."""


def _own(key: str) -> str:
    if key != _NOTE and key.strip().casefold().startswith(_OURS):
        raise ValueError(f"tags that begin with {' or '.join(_OURS)} are the service account's alone")
    return key


class _Written(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


_Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_ ./-]*$", max_length=250), AfterValidator(_own)]
"""In letters that cannot be taken for others."""


class _Tag(_Written):
    key: _Key
    value: Annotated[str, Field(max_length=50_000)]


class _RunTag(_Tag):
    run_id: str = ""
    run_uuid: str = ""


class _ExperimentTag(_Tag):
    experiment_id: str


class _ModelTag(_Tag):
    name: str


class _VersionTag(_Tag):
    name: str
    version: str


class _Description(_Written):
    name: str
    description: Annotated[str, Field(max_length=50_000)]


_WRITES: dict[tuple[str, str], type[_Written]] = {
    ("POST", "runs/set-tag"): _RunTag,
    ("POST", "experiments/set-experiment-tag"): _ExperimentTag,
    ("POST", "registered-models/set-tag"): _ModelTag,
    ("POST", "model-versions/set-tag"): _VersionTag,
    ("PATCH", "registered-models/update"): _Description,
}
_REVIEW = "review"
_MODEL_NAME: TypeAdapter[str] = TypeAdapter(ExperimentName)
_WORD = re.compile(r"(approve|refuse)d?\b[\s:,.;-]*", re.IGNORECASE)
_LONGEST_WORD = 10_100
"""Characters of a tag that decides: a reason has 10,000 at most."""
_HOW = "write `approve: WHY` or `refuse: WHY`"


@dataclass(frozen=True, kw_only=True)
class ReviewTag:
    """What a person says of a version by its tag `review`."""

    model: str
    version: int
    kind: Literal["approve", "refuse"]
    reason: str

    def written(self, by: str) -> bytes:
        """The tag as it is kept: with who said it."""
        value = f"{self.kind}d by {by}: {self.reason}"
        tag = _VersionTag(name=self.model, version=str(self.version), key=_REVIEW, value=value)
        return tag.model_dump_json().encode()


def review_tag(method: str, path: str, body: bytes, role: Role) -> ReviewTag | None:
    """The word on a version that a request which is allowed has; None where it has none.

    Raises:
        HTTPException: it is not a reviewer's (403), or does not say what or why (400).
    """
    if (method, path.rpartition("/mlflow/")[2]) != ("POST", "model-versions/set-tag"):
        return None
    tag = _VersionTag.model_validate_json(body)
    if tag.key.strip().casefold() != _REVIEW:
        return None
    if role != "reviewer":
        raise HTTPException(403, f"an {role} does not decide on versions: a reviewer does")
    said = tag.value[: _LONGEST_WORD + 1].strip()
    word = _WORD.match(said)
    if word is None or len(tag.value) > _LONGEST_WORD or not said[word.end() :]:
        raise HTTPException(400, f"the tag '{_REVIEW}' decides on the version: {_HOW}, in 10,000 characters")
    if not tag.version.isascii() or not tag.version.isdecimal() or len(tag.version) > 9:
        raise HTTPException(400, "version: it is a number")
    try:
        model = _MODEL_NAME.validate_python(tag.name)
    except ValidationError as exc:
        raise HTTPException(400, "name: no model is called so") from exc
    kind: Literal["approve", "refuse"] = "approve" if word[1].casefold() == "approve" else "refuse"
    return ReviewTag(model=model, version=int(tag.version), kind=kind, reason=said[word.end() :])


_ON_THE_SERVER = "a reviewer decides by the tag 'review' of the version, or by `tidegate models"


def allowed_body(method: str, path: str, body: bytes, role: Role) -> bytes:
    """What is to be passed on as the body of a request.

    Args:
        method: of the request; HEAD counts as GET.
        path: behind `/mlflow`, decoded.
        body: as it came; empty for a request that reads by GET.
        role: of whoever asks.

    Raises:
        HTTPException: the person may not ask this (403), or it is not well written (400); with a sentence.
    """
    reads = _READS.get("GET" if method == "HEAD" else method)
    if reads is not None and reads.fullmatch(path):
        return body if method == "POST" else b""
    rest = re.fullmatch(rf"{_REST}([a-z/-]+)", path)
    wanted = None if rest is None else _WRITES.get((method, rest[1]))
    if wanted is None:
        raise HTTPException(403, _refusal(method, path))
    if role not in _WRITERS:
        raise HTTPException(403, f"a {role} reads here, and changes nothing")
    try:
        written = wanted.model_validate_json(body)
    except ValidationError as exc:
        raise HTTPException(*_complaint(exc.errors(include_url=False, include_input=False))) from exc
    if isinstance(written, _RunTag) and written.run_uuid not in ("", written.run_id) and written.run_id:
        raise HTTPException(400, "run_id and run_uuid name two runs")
    return written.model_dump_json(exclude_defaults=True).encode()


def is_artifact(path: str) -> bool:
    """Whether what a path gives is a file that somebody logged, and no part of MLflow."""
    return _ARTIFACT.fullmatch(path) is not None


def _refusal(method: str, path: str) -> str:
    if method in ("GET", "HEAD"):
        return "this is not among what can be read of MLflow here"
    if "alias" in path or "stage" in path:
        return f"aliases are moved by the service account alone; {_ON_THE_SERVER} approve`, or `rollback`"
    if method == "DELETE" or "delete" in path:
        return "nothing is deleted from MLflow here: what was registered stays for who must answer for it"
    if path.endswith("/model-versions/update"):
        return "a version's description is its passport, and the service account alone writes it; use a tag"
    return "this is not among what can be changed in MLflow here: tags and descriptions are"


def _complaint(errors: Any) -> tuple[int, str]:
    first = errors[0]
    words = str(first["msg"]).removeprefix("Value error, ")[:200]
    place = ".".join(str(part)[:50] for part in first["loc"][:3])
    return (403 if "service account" in words else 400), f"{place}: {words}".removeprefix(": ")
