"""What the gateway counts, in Prometheus' form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from shunter.serve.boundary import Scheduler, Usage
from shunter.serve.core.effects import CAUSES

_WAITS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
_TOKENS_S = (0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.4, 1, 2.5)
_DECISIONS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25)


class Metrics:
    """Counters and histograms of one application, and gauges that are read when they are asked for."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Gauges(scheduler))
        self._requests = self._counter("requests", "Ended requests, by HTTP status", "model", "code")
        self._tokens = self._counter("tokens", "Tokens, as servers count them", "model", "kind")
        self._loads = self._counter("loads", "Loads of a model that began", "model", "device", "reason")
        self._failures = self._counter("load_failures", "Loads and servers that failed", "model", "device")
        self._fallbacks = self._counter("policy_fallback", "Decisions that another policy had to take")
        self._wait = self._histogram("queue_wait_seconds", "From arrival to a server", _WAITS_S, "model")
        self._ttft = self._histogram("ttft_seconds", "From arrival to the first token", _WAITS_S, "model")
        self._tpot = self._histogram("tpot_seconds", "Time per further token", _TOKENS_S, "model")
        self._request = self._histogram("request_seconds", "From arrival to the end", _WAITS_S, "model")
        self._load = self._histogram("load_seconds", "Time of a load", _WAITS_S, "model", "device")
        self._decision = self._histogram("decision_seconds", "Time of a decision", _DECISIONS_S)

    def text(self) -> bytes:
        """All figures, as they are scraped."""
        return generate_latest(self._registry)

    def count_queue_wait(self, model: str, seconds: float) -> None:
        """Counts how long a request waited for a server."""
        self._wait.labels(model).observe(seconds)

    def count_refusal(self, model: str, status: int) -> None:
        """Counts a request that the scheduler did not admit; a model that it does not know has no name."""
        self._requests.labels("" if status == 404 else model, str(status)).inc()

    def count_end(self, model: str, status: int, seconds: float) -> None:
        """Counts an admitted request that has ended; 499: its client went away."""
        self._requests.labels(model, str(status)).inc()
        self._request.labels(model).observe(seconds)

    def count_tokens(
        self, model: str, usage: Usage, ttft_s: float | None, decoding_s: float | None, counted: int
    ) -> None:
        """Counts the tokens of an answer, and how fast they came if it was streamed."""
        for kind, count in (("prompt", usage.prompt_tokens), ("completion", usage.completion_tokens)):
            if count:
                self._tokens.labels(model, kind).inc(count)
        further = (usage.completion_tokens or counted) - 1
        if ttft_s is not None:
            self._ttft.labels(model).observe(ttft_s)
        if decoding_s is not None and further > 0:
            self._tpot.labels(model).observe(decoding_s / further)

    def count_event(self, event: dict[str, Any]) -> None:
        """Counts what the scheduler tells."""
        place = (str(event.get("model", "")), str(event.get("device", "")))
        kind = event.get("type")
        if kind == "load":
            reason = event.get("reason")
            self._loads.labels(*place, reason if reason in CAUSES else "other").inc()
        elif kind == "ready" and event.get("took_s") is not None:
            self._load.labels(*place).observe(event["took_s"])
        elif kind == "failed":
            self._failures.labels(*place).inc()
        elif kind == "decision":
            if event.get("took_ms") is not None:
                self._decision.observe(event["took_ms"] / 1000)
            if event.get("fallback"):
                self._fallbacks.inc()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"shunter_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"shunter_{name}", text, labels, buckets=buckets, registry=self._registry)


class _Gauges(Collector):
    """What the scheduler's snapshot says, made into figures when they are asked for."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def describe(self) -> Iterable[Any]:
        """None are named beforehand: nothing is read before the scheduler runs."""
        return ()

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Reads the snapshot once."""
        now = self._scheduler.snapshot()
        yield _gauge("ready", "1 if requests move", [((), float(self._scheduler.ready() is None))])
        yield _gauge("policy_fallback_active", "1 if another decides", [((), float(bool(now["fallback"])))])
        yield from _of_models(now)
        yield from _of_devices(now)
        for name in ("evictions", "decisions", "cancelled"):
            counter = CounterMetricFamily(f"shunter_{name}", f"Number of {name}")
            counter.add_metric((), now["totals"][name])
            yield counter


def _of_models(now: dict[str, Any]) -> Iterator[GaugeMetricFamily]:
    models = now["models"]
    for name, key, text in (
        ("queue_depth", "queued", "Requests that wait"),
        ("requests_running", "running", "Requests that a server answers"),
        ("oldest_wait_seconds", "oldest_wait_s", "Wait of who waits longest"),
        ("predicted_wait_seconds", "predicted_wait_s", "Wait that a new request is to expect"),
    ):
        yield _gauge(name, text, [((model["name"],), model[key] or 0) for model in models], "model")
    states = [((model["name"], "", model["state"]), 1.0) for model in models]
    states += [
        ((resident["model"], device["name"], resident["state"]), 1.0)
        for device in now["devices"]
        for resident in device["residents"]
    ]
    text = "1 for the state that a model is in, as a whole and on each device"
    yield _gauge("model_state", text, dict(states).items(), "model", "device", "state")


def _of_devices(now: dict[str, Any]) -> Iterator[GaugeMetricFamily]:
    kinds = ("capacity", "used", "measured")
    yield _gauge(
        "device_memory_bytes",
        "Memory of a device: all, what the scheduler counts as used, what was measured",
        [
            ((device["name"], kind), device[f"{kind}_bytes"])
            for device in now["devices"]
            for kind in kinds
            if device[f"{kind}_bytes"] is not None
        ],
        "device",
        "kind",
    )


def _gauge(
    name: str, text: str, rows: Iterable[tuple[tuple[str, ...], float]], *labels: str
) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(f"shunter_{name}", text, labels=labels)
    for values, value in rows:
        gauge.add_metric(values, value)
    return gauge
