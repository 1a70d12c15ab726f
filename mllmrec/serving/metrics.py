"""What Prometheus reads at ``/metrics``."""

from __future__ import annotations

import os

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # of prometheus_client: where worker processes share their numbers
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The numbers of one service. Those of worker processes are added up."""

    def __init__(self) -> None:
        shared = SHARED_FOLDER in os.environ
        own = None if shared else CollectorRegistry()
        self.registry = own
        self.requests = Counter("mllmrec_requests", "Answers sent.", ["endpoint", "status"], registry=own)
        self.seconds = Histogram(
            "mllmrec_request_seconds",
            "Time from a request's headers to its answer.",
            ["endpoint"],
            registry=own,
            buckets=_SECONDS,
        )
        self.batch_sizes = Histogram(
            "mllmrec_batch_size", "Requests ranked together.", registry=own, buckets=_SIZES
        )
        self.batch_seconds = Histogram(
            "mllmrec_batch_seconds", "Time of one batch.", registry=own, buckets=_SECONDS
        )
        self.waiting = Gauge(
            "mllmrec_queue_length", "Requests that wait.", registry=own, multiprocess_mode="livesum"
        )
        self.kept = Counter(
            "mllmrec_kept_results", "Requests by whether their ranking was kept.", ["found"], registry=own
        )
        if own is not None:
            ProcessCollector(registry=own)

    def batch(self, size: int, seconds: float) -> None:
        """Count a batch."""
        self.batch_sizes.observe(size)
        self.batch_seconds.observe(seconds)

    def looked_up(self, found: bool) -> None:
        """Count a question by whether its result was kept."""
        self.kept.labels("yes" if found else "no").inc()

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self.requests.labels(endpoint, str(status)).inc()
        self.seconds.labels(endpoint).observe(seconds)

    def page(self) -> bytes:
        """The numbers in Prometheus's text format."""
        registry = self.registry
        if registry is None:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return generate_latest(registry)
