"""What may be asked of a model: an OpenAPI document for programs, and one page for people.

Both are made of the public schema: the columns, their ranges and categories. The page fetches nothing from
anywhere: a site's machine may reach no other.
"""

from __future__ import annotations

from html import escape
from typing import Any

import msgspec

from contract.experiment import CategoricalFeature, NumericFeature
from inference.requests import MOST_ROWS
from inference.served import Served
from serving.drawn_rows import middle_row

__all__ = ["openapi", "page"]

Json = dict[str, Any]


def openapi(served: Served) -> Json:
    """The document."""
    task = served.experiment.task
    row = {one.name: _value(one) for one in task.features}
    needed = [one.name for one in task.features if one.missing is None]
    label = task.label
    prediction: Json = (
        {"type": ["string", "null"], "enum": [*label.classes, None]}
        if label.classes
        else {"type": ["number", "null"]}
    )
    told: Json = {
        "type": "object",
        "properties": {
            "prediction": prediction,
            "probabilities": {"type": "object", "additionalProperties": {"type": "number"}},
            "reason": {"type": "string"},
            "explanation": {"type": "object", "additionalProperties": {"type": "number"}},
        },
        "required": ["prediction"],
    }
    answer: Json = {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "model": {"type": "string"},
            "version": {"type": "integer"},
            "predictions": {"type": "array", "items": told},
            "columns": {"type": "object"},
        },
        "required": ["id", "model", "version"],
    }
    rows: Json = {
        "type": "array",
        "minItems": 1,
        "maxItems": MOST_ROWS,
        "items": {"type": "object", "properties": row, "required": needed, "additionalProperties": False},
    }
    asked: Json = {
        "type": "object",
        "properties": {"rows": rows, "partial": {"type": "boolean"}, "explain": {"type": "boolean"}},
        "required": ["rows"],
        "additionalProperties": False,
    }
    labels: Json = {
        "type": "object",
        "properties": {
            "labels": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "properties": {
                        "id": {"type": "string"},
                        "row": {"type": "integer", "minimum": 0},
                        "label": {"type": "string", "enum": list(label.classes)}
                        if label.classes
                        else {"type": "number"},
                    },
                    "required": ["id", "label"],
                    "additionalProperties": False,
                },
            }
        },
        "required": ["labels"],
        "additionalProperties": False,
    }
    model = f"/v2/models/{served.name}"
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{served.name}: predictions",
            "version": str(served.version),
            "description": task.description,
        },
        "paths": {
            "/predict": {"post": _post("Predictions for rows", asked, answer, {"rows": [middle_row(task)]})},
            "/labels": {
                "post": _post("What came of rows", labels, {"type": "object"}, None)
                | {"description": "404: no such answer"}
            },
            f"{model}/infer": {
                "post": _post(
                    "The same by the Open Inference Protocol",
                    {"type": "object", "properties": {"inputs": {"type": "array"}}, "required": ["inputs"]},
                    {"type": "object"},
                    None,
                )
            },
            model: {"get": _get("The model's tensors")},
            f"{model}/ready": {"get": _get("Whether it is in service")},
            "/v2": {"get": _get("The protocol's server")},
            "/v2/health/live": {"get": _get("Whether the service runs")},
            "/v2/health/ready": {"get": _get("Whether a version is in service", 503)},
            "/healthz": {"get": _get("Whether the service runs")},
        },
        "components": {"schemas": {"Error": _ERROR}},
    }


_ERROR: Json = {
    "type": "object",
    "properties": {
        "error": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "field": {"type": "string"},
                    "reason": {"type": "string"},
                    "row": {"type": "integer"},
                },
                "required": ["field", "reason"],
            },
        },
    },
    "required": ["error", "errors"],
}


def _value(feature: NumericFeature | CategoricalFeature) -> Json:
    missing = feature.missing is not None
    if isinstance(feature, NumericFeature):
        kind: Json = {"type": ["number", "null"] if missing else "number"}
        return kind | {"minimum": feature.low, "maximum": feature.high}
    if feature.other is not None:
        return {"type": ["string", "null"] if missing else "string"}
    return {"enum": [*feature.categories, *([None] if missing else [])]}


def _content(schema: Json, shown: Json | None = None) -> Json:
    return {"application/json": {"schema": schema} | ({} if shown is None else {"example": shown})}


def _errors(*statuses: int) -> Json:
    refused = {"description": "refused, with the fields and the reasons"}
    return {
        str(status): refused | {"content": _content({"$ref": "#/components/schemas/Error"})}
        for status in statuses
    }


def _post(summary: str, asked: Json, told: Json, shown: Json | None) -> Json:
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": _content(asked, shown)},
        "responses": {
            "200": {"description": "done", "content": _content(told)},
            **_errors(400, 401, 404, 405, 409, 413, 422, 503),
        },
    }


def _get(summary: str, *others: int) -> Json:
    return {
        "summary": summary,
        "responses": {"200": {"description": "so it is", "content": _content({"type": "object"})}}
        | _errors(401, 404, 405, 503)
        | {str(one): {"description": "not yet", "content": _content({"type": "object"})} for one in others},
    }


def page(served: Served) -> str:
    """The page for people."""
    task = served.experiment.task
    rows = "".join(
        f"<tr><td><code>{escape(one.name)}</code></td><td>{_words(one)}</td><td>{_absent(one)}</td></tr>"
        for one in task.features
    )
    body = escape(msgspec.json.format(msgspec.json.encode({"rows": [middle_row(task)]})).decode())
    label = task.label
    told = ", ".join(label.classes) if label.range is None else f"{label.range.low:g} to {label.range.high:g}"
    statement = served.statement
    signed = "not signed" if statement is None else f"signed {statement.signed:%Y-%m-%d %H:%M} UTC"
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{escape(served.name)}: predictions</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;
color:#1b2a33}}
table{{border-collapse:collapse;width:100%}}td,th{{text-align:left;padding:.3rem .6rem;
border-bottom:1px solid #d5dde2;vertical-align:top;overflow-wrap:anywhere}}
pre{{background:#f2f5f7;padding:1rem;overflow-x:auto}}</style>
<h1>{escape(served.name)}</h1>
<p>{escape(task.description)}</p>
<p>Version {served.version}, {escape(served.engine)}, {signed}. It predicts
<code>{escape(label.column)}</code>: {escape(told)}.</p>
<h2>Ask</h2><pre>POST /predict
{body}</pre>
<h2>Columns</h2><table><tr><th>field</th><th>value</th><th>missing</th></tr>{rows}</table>
<h2>More</h2><p><code>POST /labels</code> with the answer's <code>id</code>, <code>row</code> and
<code>label</code> once it is known; <code>/v2/models/{escape(served.name)}</code> by the Open Inference
Protocol; <a href="openapi.json">OpenAPI document</a>; <code>/metrics</code> for Prometheus.</p></html>"""


def _words(feature: NumericFeature | CategoricalFeature) -> str:
    if isinstance(feature, NumericFeature):
        return f"a number, {feature.low:g} to {feature.high:g}"
    listed = escape(", ".join(feature.categories))
    return listed if feature.other is None else f"{listed}; any other counts as {escape(feature.other)}"


def _absent(feature: NumericFeature | CategoricalFeature) -> str:
    if feature.missing is None:
        return "refused"
    value = f"{feature.missing:g}" if isinstance(feature, NumericFeature) else feature.missing
    return f"taken as {escape(value)}"
