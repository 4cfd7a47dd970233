"""The workload section of a scenario file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Discriminator, Field, Tag, model_validator

from shunter.envs.scenario.fields import Count, Positive, Strict

__all__ = ["AssumedWorkload", "Replay", "TracePart", "Workload"]

LENGTHS = ("azure2023_conv", "azure2023_code", "mooncake_conversation", "mooncake_synthetic")
"""Named length distributions: the first as pairs of the trace itself, the others from its quantiles."""


class Bursts(Strict):
    """A second, higher arrival rate that comes and goes: a Markov-modulated process of two states.

    Attributes:
        factor: Rate inside a burst over the mean rate.
        share: Share of time spent in bursts.
        mean_s: Mean length of a burst; lengths are exponential.
    """

    factor: Annotated[float, Field(gt=1, allow_inf_nan=False)]
    share: Annotated[float, Field(gt=0, lt=1)]
    mean_s: Positive

    @model_validator(mode="after")
    def _something_between(self) -> Self:
        if self.factor * self.share > 1:
            raise ValueError(
                "have a factor times share of at most 1: bursts cannot hold more than all requests"
            )
        return self


class Diurnal(Strict):
    """A rate that swings around its mean like a sine.

    Attributes:
        amplitude: Height of the swing over the mean rate, a share between 0 and 1.
        period_s: Seconds of one swing; the episode begins at a random point of it.
    """

    amplitude: Annotated[float, Field(gt=0, lt=1)]
    period_s: Positive = 86_400.0


class Step(Strict):
    """A stretch of time at one rate.

    Attributes:
        span_s: How long it lasts.
        factor: Its rate relative to the other steps'; the mean over all of them is the workload's rate.
    """

    span_s: Positive
    factor: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Arrivals(Strict):
    """When requests, or sessions, arrive.

    Attributes:
        gaps: Distribution of the gaps between arrivals: ``poisson`` (exponential), ``gamma`` or ``weibull``.
        cv: Coefficient of variation of gamma and Weibull gaps; above 1: burstier than Poisson.
        bursts: Modulates the rate.
        diurnal: Modulates the rate.
        steps: Modulates the rate: it is the first step's as the episode begins, and after the last step the
            first comes again. Give at most one of the three.
    """

    gaps: Literal["poisson", "gamma", "weibull"] = "poisson"
    cv: Annotated[float, Field(ge=0.1, le=20)] | None = None
    bursts: Bursts | None = None
    diurnal: Diurnal | None = None
    steps: Annotated[list[Step], Field(min_length=2, max_length=10_000)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.cv is None) != (self.gaps == "poisson"):
            raise ValueError("give cv for gamma and weibull gaps, and only for these: Poisson's is 1")
        if sum(one is not None for one in (self.bursts, self.diurnal, self.steps)) > 1:
            raise ValueError("give at most one of bursts, diurnal and steps")
        if self.steps is not None and not any(step.factor for step in self.steps):
            raise ValueError("give at least one of steps a factor above 0")
        return self

    @property
    def unsteady(self) -> float:
        """How much longer queues get than under a steady Poisson process, which has 1.

        The mean square over the squared mean of the rate, times (1 + cv^2) / 2 of the gaps, at least 1.
        """
        varies = 1.0
        if self.bursts is not None:
            inside, outside = self.bursts.share, 1.0 - self.bursts.share
            varies = inside * self.bursts.factor**2 + (1.0 - inside * self.bursts.factor) ** 2 / outside
        if self.diurnal is not None:
            varies = 1.0 + self.diurnal.amplitude**2 / 2.0
        if self.steps is not None:
            span_s, factor = np.array([(step.span_s, step.factor) for step in self.steps]).T
            factor = factor / factor.max()  # whose squares may be no number
            varies = float(span_s.sum() * (span_s @ factor**2) / (span_s @ factor) ** 2)
        return varies * max(1.0, (1.0 + (self.cv or 1.0) ** 2) / 2.0)


class Sessions(Strict):
    """Requests that come in sessions, as agents send them, alternating between a few models.

    Attributes:
        turns: Requests of a session.
        models: Different models that it alternates between, drawn by popularity.
        gap_s: Mean gap between a session's requests, exponential; it does not wait for answers.
    """

    turns: Annotated[int, Field(ge=2, le=1000)]
    models: Count = 2
    gap_s: Positive


class ClosedLoop(Strict):
    """Users who send their next request after the answer to their last, instead of arrivals at a rate.

    Attributes:
        users: Number of users.
        think_s: Mean pause from an answer to the next request, exponential. The first requests are sent at
            evenly spaced quantiles of it.
    """

    users: Annotated[int, Field(ge=1, le=10_000)]
    think_s: Positive


class TracePart(Strict):
    """A trace file, or the part of it that arrives within an interval.

    Attributes:
        file: Trace file in any format that ``shunter workload show`` reads; relative to the scenario file.
        format: Format of the trace file; by default as its header shows.
        mend: Leave out what is broken in it instead of refusing.
        time_unit: Unit of its arrivals, where neither the file nor its format says: s, ms, us or ns.
        from_s: Seconds after its first request from which on requests count; None: from the first.
        to_s: Seconds after its first request before which they arrive; None: to its end.
        requests: How many of these count, the first ones; None: all.
    """

    file: Path
    format: str | None = None
    mend: bool = False
    time_unit: Literal["s", "ms", "us", "ns"] | None = None
    from_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    to_s: Positive | None = None
    requests: Count | None = None

    @model_validator(mode="after")
    def _lasting(self) -> Self:
        if self.to_s is not None and self.to_s <= (self.from_s or 0.0):
            raise ValueError("have a to_s of more than from_s")
        return self

    def relative_to(self, folder: Path) -> Self:
        """The same part of the file as it is found from a folder."""
        return self.model_copy(update={"file": folder / self.file})


def _kind_of_lengths(lengths: object) -> str:
    return "trace" if isinstance(lengths, dict | TracePart) else "name"


Lengths = Annotated[
    Annotated[Literal[LENGTHS] | Path, Tag("name")] | Annotated[TracePart, Tag("trace")],  # type: ignore[valid-type]
    Discriminator(_kind_of_lengths),
]
"""What ``Workload.lengths`` may be; errors are those of the kind that was given."""


class Replay(TracePart):
    """A recorded trace instead of synthetic requests: a random stretch of it, begun anew at its end.

    Attributes:
        models: Which model a request asks for: by the trace's ``column``, where every request must name a
            model of the scenario; drawn by popularity for each request (``zipf``), or for each session of the
            trace and each request without one (``session``). None: by the column where it names one of the
            scenario's models, else drawn by popularity, with a line that says so.
        names: Models by the names that the trace's column has, where those differ.
    """

    models: Literal["column", "zipf", "session"] | None = None
    names: Annotated[dict[str, str], Field(default_factory=dict)]

    @model_validator(mode="after")
    def _by_name(self) -> Self:
        if self.names and self.models not in (None, "column"):
            raise ValueError(f"give names only where models go by the trace's column, not by {self.models}")
        return self


class Workload(Strict):
    """Requests of one episode.

    Attributes:
        requests: Requests per episode.
        rate_per_s: Mean arrivals per second over all models; give this or load.
        load: Arrival rate as a share of ``capacity_rate_per_s``. Where that is not given, as a share of what
            the devices could serve one request at a time, every model loaded at its highest level: swaps push
            the real utilisation above it, batching below. Above 1, requests pile up. A replay keeps its own
            rate if neither load nor rate is given.
        capacity_rate_per_s: Largest mean rate at which the best heuristic still drains, as measured by
            ``shunter scenarios check``, which writes it here with ``--write``. It holds for these devices,
            models, lengths and limits, and this performance model: measure it again when they change.
        arrivals: When they arrive.
        popularity_zipf: Exponent s: the k-th model, in the order listed, is asked for in proportion to k^-s.
        popularity_drift_s: After every so many seconds, a model drawn at random becomes the most popular one.
        lengths: Named distribution of (prompt, decode) pairs, or a trace file or part of one, whose pairs
            are drawn.
        prompt_scale: Factor on prompt lengths.
        decode_scale: Factor on decode lengths.
        sessions: Group requests into sessions.
        replay: Take arrivals and lengths from a trace.
        closed_loop: Users who wait for answers, instead of a rate.
    """

    requests: Annotated[int, Field(ge=1, le=10_000_000)] = 200
    rate_per_s: Positive | None = None
    load: Positive | None = None
    capacity_rate_per_s: Positive | None = None
    arrivals: Arrivals = Arrivals()
    popularity_zipf: Annotated[float, Field(ge=0)] = 1.2
    popularity_drift_s: Positive | None = None
    lengths: Lengths = "azure2023_conv"
    prompt_scale: Positive = 1.0
    decode_scale: Positive = 1.0
    sessions: Sessions | None = None
    replay: Replay | None = None
    closed_loop: ClosedLoop | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        rates = (self.rate_per_s is not None) + (self.load is not None)
        if rates > (self.closed_loop is None) or (rates == 0 and not (self.replay or self.closed_loop)):
            raise ValueError("give exactly one of rate_per_s, load and closed_loop")
        if self.replay and (self.sessions or self.arrivals != Arrivals()):
            raise ValueError("leave out arrivals and sessions: a replay has arrivals of its own")
        if self.closed_loop and (
            self.replay or self.sessions or self.popularity_drift_s or self.arrivals != Arrivals()
        ):
            raise ValueError(
                "leave out arrivals, sessions, replay and drift in a closed loop: its users set the pace"
            )
        return self

    def first_sends_ns(self) -> NDArray[np.int64] | None:
        """When each user of a closed loop sends the first request, shape (users,); None in an open loop."""
        if self.closed_loop is None:
            return None
        quantiles = (np.arange(self.closed_loop.users) + 0.5) / self.closed_loop.users
        return np.rint(-1e9 * self.closed_loop.think_s * np.log1p(-quantiles)).astype(np.int64)

    def relative_to(self, folder: Path) -> Workload:
        """The same workload with its trace files looked for from a folder."""
        changes: dict[str, object] = {}
        changes["lengths"] = lengths_relative_to(self.lengths, folder)
        if self.replay:
            changes["replay"] = self.replay.relative_to(folder)
        return self.model_copy(update=changes)


class AssumedWorkload(Workload):
    """What is expected where nothing is said of requests, as a gateway's scenario need not."""

    load: Positive | None = 0.7


def lengths_relative_to(lengths: Lengths, folder: Path) -> Lengths:
    """The same lengths, a trace file among them as it is found from a folder."""
    if isinstance(lengths, TracePart):
        return lengths.relative_to(folder)
    return folder / lengths if isinstance(lengths, Path) else lengths
