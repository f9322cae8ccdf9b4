"""Figures of the service for Prometheus, in the form of its own client library.

They are counted in plain numbers and made into Prometheus' types when they are asked for: its own counters
take a lock each, with every request.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

__all__ = ["Metrics"]

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class Metrics(Collector):
    """What is counted. Nothing of a row is: routes, statuses, times, versions."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._requests, self._rows = Counter[tuple[str, int]](), Counter[int]()
        self._buckets: dict[str, list[int]] = {}
        self._sums: dict[str, float] = defaultdict(float)
        self._served: tuple[str, int, str] | None = None
        self._refused = 0

    def count(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests[route, status] += 1
        buckets = self._buckets.get(route)
        if buckets is None:
            buckets = self._buckets[route] = [0] * (len(_SECONDS) + 1)
        buckets[bisect_left(_SECONDS, seconds)] += 1
        self._sums[route] += seconds

    def rows(self, version: int, count: int) -> None:
        """Count rows that a version predicted."""
        self._rows[version] += count

    def serves(self, model: str, version: int, engine: str) -> None:
        """Say which version is in service."""
        self._served = model, version, engine

    def refused(self) -> None:
        """Count a version that was not taken."""
        self._refused += 1

    def written(self) -> tuple[str, bytes]:
        """The type of the text, and the text, as Prometheus reads it."""
        return CONTENT_TYPE_LATEST, generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """All of it in Prometheus' types."""
        requests = CounterMetricFamily("tidegate_requests", "Requests answered", labels=("route", "status"))
        for (route, status), count in sorted(self._requests.items()):
            requests.add_metric((route, str(status)), count)
        yield requests
        seconds = HistogramMetricFamily(
            "tidegate_request_seconds", "From a request's head to its answer", labels=("route",)
        )
        for route, buckets in sorted(self._buckets.items()):
            bounds = [*map(str, _SECONDS), "+Inf"]
            seconds.add_metric(
                (route,), list(zip(bounds, accumulate(buckets), strict=True)), self._sums[route]
            )
        yield seconds
        rows = CounterMetricFamily("tidegate_rows", "Rows predicted", labels=("version",))
        for version, count in sorted(self._rows.items()):
            rows.add_metric((str(version),), count)
        yield rows
        served = GaugeMetricFamily(
            "tidegate_model_version", "The version in service", labels=("model", "engine")
        )
        if self._served is not None:
            model, number, engine = self._served
            served.add_metric((model, engine), number)
        yield served
        yield CounterMetricFamily(
            "tidegate_versions_refused", "Versions that were offered and not taken", self._refused
        )
