"""Figures of the service for Prometheus, by its own client library."""

from __future__ import annotations

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

__all__ = ["Metrics"]

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class Metrics:
    """What is counted. Nothing of a row is: routes, statuses, times, versions."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "tidegate_requests", "Requests answered", ("route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "tidegate_request_seconds",
            "From a request's head to its answer",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._rows = Counter("tidegate_rows", "Rows predicted", ("version",), registry=self._registry)
        self._version = Gauge(
            "tidegate_model_version",
            "The version in service",
            ("model", "engine"),
            registry=self._registry,
        )
        self._refused = Counter(
            "tidegate_versions_refused", "Versions that were offered and not taken", registry=self._registry
        )
        self._away = Gauge(
            "tidegate_server_away_seconds",
            "Since the federation's server was last heard",
            registry=self._registry,
        )
        self._children: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def count(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        found = self._children.get((route, status))
        if found is None:
            found = (self._requests.labels(route, str(status)), self._seconds.labels(route))
            self._children[route, status] = found
        found[0].inc()
        found[1].observe(seconds)

    def rows(self, version: int, count: int) -> None:
        """Count rows that a version predicted."""
        self._rows.labels(str(version)).inc(count)

    def serves(self, model: str, version: int, engine: str) -> None:
        """Say which version is in service."""
        self._version.clear()
        self._version.labels(model, engine).set(version)

    def refused(self) -> None:
        """Count a version that was not taken."""
        self._refused.inc()

    def away(self, seconds: float) -> None:
        """Say how long the server has been away."""
        self._away.set(seconds)

    def written(self) -> tuple[str, bytes]:
        """The type of the text, and the text, as Prometheus reads it."""
        return CONTENT_TYPE_LATEST, generate_latest(self._registry)
