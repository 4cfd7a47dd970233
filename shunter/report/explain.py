"""The explanation of a trained policy as one page that works offline, the answer first."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from shunter.agents.learned.base_policy import BasePolicy
from shunter.agents.learned.inputs import CANDIDATE_SCALE, CONTEXT_SCALE, KINDS
from shunter.agents.learned.policy import LearnedPolicy
from shunter.eval.explain.differences import Kind
from shunter.eval.explain.example import Example
from shunter.eval.explain.explain import Explanation, WeightGroup
from shunter.eval.explain.replay import Followed
from shunter.eval.explain.words import PHRASES, group_of
from shunter.eval.timeline import read_timeline
from shunter.report.page import COLOURS, ReportTable, Section, write_sections
from shunter.report.timeline import HOW_TO_READ, timeline_figure
from shunter.uncertainty import Interval

__all__ = ["explanation_lines", "write_explanation"]

SHOWN_WEIGHTS, SHOWN_CURVES = 15, 6
MOST_NEEDED, LEAST_NEEDED = 10, 5

_PRIOR_MEANS = {
    "load_weight": "what a second of loading counts against a second of serving",
    "reload_weight": "what bringing a model back counts when a victim is chosen",
    "copy_share": "what a second copy of a model counts, relative to a first",
    "elsewhere": "how much a load counts less where another device would serve sooner",
}


def write_explanation(explanation: Explanation, path: str | os.PathLike[str]) -> Path:
    """Writes the page, whole or not at all."""
    world, policy = explanation.world, explanation.policy.name
    load = f" at load {world.scenario.workload.load:g}" if world.scenario.workload.load else ""
    return write_sections(
        path,
        title=f"Why {policy} does as it does in {world.scenario.name}{load}",
        paragraphs=explanation_lines(explanation),
        sections=explanation_sections(explanation),
    )


def explanation_lines(explanation: Explanation) -> list[str]:
    """The answer in a few sentences."""
    first, *others = explanation.contenders
    against = "; ".join(f"{_change(one.response_change)} against {one.name}" for one in others)
    lines = [
        f"{first.name} answers in {_mean_s(first.response_s)} on average over {len(explanation.seeds)} "
        "request sequences that nothing was chosen on "
        f"(seeds {min(explanation.seeds)} to {max(explanation.seeds)}): "
        f"{against} (paired 95 % intervals: below 0 is quicker, one that holds 0 shows nothing)."
    ]
    lines.append(
        f"It decides otherwise than the untrained policy in {explanation.differing:.1%} of "
        f"{explanation.decisions} decisions. {_worth(explanation)}"
    )
    needed = [group for group in explanation.groups if group.worse.sign > 0]
    if needed:
        named = ", ".join(f"{group.name} {_change(group.worse)}" for group in needed[:3])
        lines.append(f"What it would miss most, were these weights set to zero: {named}.")
    useless = [group for group in explanation.groups[::-1] if group.worse.sign < 0]
    if useless:
        named = ", ".join(f"{group.name} {_change(group.worse)}" for group in useless[:3])
        lines.append(f"On these requests it would be better without: {named}.")
    return lines


def _worth(explanation: Explanation) -> str:
    """Which differences pay, each time and for sure."""
    worth = [kind for kind in explanation.kinds if _surely_positive(kind)]
    if not worth:
        return "Of no single kind of difference is it sure that it pays each time."
    named = "; ".join(
        f"it {kind.words} ({kind.share:.1%}, {_pair(kind.near_s)} at once, {_pair(kind.gain_s)} to the end)"
        for kind in worth[:3]
    )
    return (
        "What surely pays (two standard errors above 0, at once and to the end; share of decisions, "
        f"request-seconds saved by each): {named}."
    )


def explanation_sections(explanation: Explanation) -> list[Section]:
    """All sections, in order."""
    return [
        _judged(explanation),
        _learned(explanation),
        _needed(explanation),
        _differs(explanation),
        *(_example(one, explanation, i) for i, one in enumerate(explanation.examples, start=1)),
        _method(explanation),
    ]


def _judged(explanation: Explanation) -> Section:
    rows = []
    for i, one in enumerate(explanation.contenders):
        changes = [_change(change) if i else "" for change in (one.response_change, one.wait_change)]
        wait_s = f"{one.wait_p99_s.mean():.3g} s"
        rows.append((one.name, _mean_s(one.response_s), changes[0], wait_s, changes[1]))
    columns = ("policy", "mean response", "the policy against it", "p99 wait", "the policy against it")
    note = (
        "Its prior alone: all learned weights zero, the prior's four numbers as learned. Untrained: what "
        "trainings begin with. p99 wait: for a first token, mean over sequences of each one's 99th "
        "percentile. Changes: negative = lower = better; undecided where the interval holds zero."
    )
    return Section("Is it better?", tables=(ReportTable("", columns, tuple(rows), note),))


def _learned(explanation: Explanation) -> Section:
    policy = explanation.policy
    before, after = BasePolicy()._asdict(), policy.prior._asdict()
    prior = tuple((name, f"{before[name]:.3g}", f"{after[name]:.3g}", _PRIOR_MEANS[name]) for name in before)
    weights = tuple(
        (one.words, f"{one.spread:.3f}", f"{one.weight:+.3f}", one.kind, one.input)
        for one in explanation.weights[:SHOWN_WEIGHTS]
    )
    left = len(explanation.weights) - len(weights)
    note = (
        "By what a weight does, not by its size: the standard deviation of what it adds to scores among the "
        "candidates of one decision, root mean square over all decisions of these episodes. A score is a "
        "logarithm: 0.1 is 10 % of a rate of service. Small and large values of a feature have weights of "
        f"their own: read them together, in the picture. {left} weights more move less than these."
    )
    tables = (
        ReportTable("The prior's numbers", ("number", "before", "after", "means"), prior, prose=True),
        ReportTable(
            f"The {len(weights)} weights that do most",
            ("the policy is", "spread", "weight", "kind", "input"),
            weights,
            note,
            prose=True,
        ),
    )
    figures = (_curves(explanation),) if weights else ()
    return Section("What did it learn?", figures=figures, tables=tables)


def _curves(explanation: Explanation) -> go.Figure:
    """What the strongest features add to scores, small and large values together."""
    pairs = dict.fromkeys((one.kind, one.feature) for one in explanation.weights)
    curves = [(kind, name, _values(explanation.followed, kind, name)) for kind, name in pairs]
    figure, shown = go.Figure(), [curve for curve in curves if len(curve[2])][:SHOWN_CURVES]
    for (kind, name, x), colour in zip(shown, COLOURS, strict=False):
        y = _effect(explanation.policy, kind, name, x)
        figure.add_scatter(x=x, y=y, name=f"{kind}: {name}", line={"color": colour})
    return figure.update_layout(
        title="What a feature adds to the score of a candidate",
        template="plotly_white",
        height=380,
        margin={"t": 50, "b": 50},
        xaxis={"type": "log", "title": f"value (counts; times in units of {_scale(explanation)})"},
        yaxis={"title": "added to the score"},
    )


SCALES = (*CANDIDATE_SCALE.tolist(), *CONTEXT_SCALE.tolist(), 0.0)


def _values(followed: Followed, kind: str, name: str) -> np.ndarray:
    """Values of a feature without a natural bound, from the least to the greatest that occurred."""
    for i, scale in enumerate(SCALES):
        if group_of(i) == name and scale == 1.0:
            ends = np.array([followed.low[KINDS.index(kind), i], followed.high[KINDS.index(kind), i]])
            if ends[0] < ends[1]:
                low, high = ends / (1 - np.minimum(ends, 1 - 1e-6))
                return np.geomspace(max(low, 0.01), max(high, 0.02), 60)
    return np.zeros(0)


def _effect(policy: LearnedPolicy, kind: str, name: str, x: np.ndarray) -> np.ndarray:
    """What a feature's values add to scores of candidates of a kind."""
    weights, total = policy.weights["linear"][KINDS.index(kind)], np.zeros_like(x)
    for i, scale in enumerate(SCALES):
        if group_of(i) == name and scale != 0:
            total += float(weights[i]) * scale * x / (1 + scale * x)
    return total


def _needed(explanation: Explanation) -> Section:
    telling = [group for group in explanation.groups if any(group.worse)]
    shown = telling[:MOST_NEEDED] + telling[MOST_NEEDED:][-LEAST_NEEDED:]
    rows = tuple(
        (group.name, PHRASES.get(group.name, ""), str(group.weights), _change(group.worse) + _left(group))
        for group in shown
    )
    sure = sum(group.worse.sign > 0 for group in explanation.groups)
    better = sum(group.worse.sign < 0 for group in explanation.groups)
    note = (
        "Change of the mean response without a group, on the same requests, all else as trained (negative = "
        "lower = better without it): the groups that are missed "
        f"most, and those missed least. Of {len(explanation.groups)} groups {sure} are missed, {better} "
        "would better be gone (intervals that exclude 0: by chance one in 40 does on either side), "
        f"{len(explanation.groups) - len(telling)} change nothing at all. All are held against the same "
        "episodes and share their luck: few sequences may make all look needed, or none. Groups overlap, and "
        "one may do what another did."
    )
    columns = ("without", "which speaks", "weights", "mean response changes by")
    return Section("What does it need?", tables=(ReportTable("", columns, rows, note, prose=True),))


def _differs(explanation: Explanation) -> Section:
    rows = tuple(
        (
            f"{kind.words}",
            kind.untrained,
            kind.chosen,
            f"{kind.count}",
            f"{kind.share:.2%}",
            f"{kind.tried}",
            _pair(kind.near_s),
            _pair(kind.gain_s),
            f"{kind.better:.0%}" if np.isfinite(kind.better) else "",
        )
        for kind in explanation.kinds
    )
    columns = (
        "the policy",
        "untrained",
        "policy",
        "decisions",
        "share",
        "tried",
        f"saved within {explanation.horizon_s:.3g} s",
        "saved to the end",
        "better in",
    )
    note = (
        "At every decision of the policy's episodes the untrained policy was asked too. From that very state "
        "each of the two choices was made, then the policy decided until the same requests were all served. "
        "Saved: request-seconds, mean ± standard error over decisions drawn at random, request sequences "
        "being what is independent. After a different choice two episodes part for good, and most of what "
        "differs at the end is luck, of which there is less within the shorter time. These figures do not "
        "add up to the difference of two policies, since one choice at a time was changed."
    )
    return Section("What does it do differently?", tables=(ReportTable("", columns, rows, note),))


def _example(example: Example, explanation: Explanation, number: int) -> Section:
    difference = example.difference
    gained = difference.near_s >= 0
    words: tuple[str, ...] = (
        f"At {example.at_s:.1f} s of sequence {difference.seed} the device {example.device} asks. Untrained "
        f"it would {example.other.words}; the policy decides to {example.chosen.words}.",
        f"That {'saved' if gained else 'cost'} {abs(difference.near_s):.3g} request-seconds within "
        f"{explanation.horizon_s:.3g} s ({difference.gain_s:+.3g} to the end): the {example.rest} requests "
        f"unserved then, those yet to come included, took {example.chosen.rest_s:.4g} s on average, and "
        f"{example.other.rest_s:.4g} s after the other choice.",
    )
    if number == 1:
        words = (*words, HOW_TO_READ)
    queues = tuple(
        (q.model, str(q.waiting), f"{q.oldest_s:.1f} s" if q.waiting else "", str(q.running))
        for q in example.queues
    )
    tables = (
        ReportTable("Who waits", ("model", "waiting", "the oldest for", "running"), queues),
        ReportTable("What the devices hold", ("device", "state"), tuple(example.devices.items()), prose=True),
        ReportTable("The candidates", ("candidate", "score", "untrained score"), tuple(_candidates(example))),
    )
    title = f"Example {number}: it {example.words}" + ("" if gained else ", and was wrong")
    return Section(title, notes=words, figures=tuple(_pictures(example, explanation)), tables=tables)


def _candidates(example: Example) -> list[tuple[str, ...]]:
    taken = {example.chosen.words: " ← policy", example.other.words: " ← untrained"}
    return [
        (
            one.words + taken.get(one.words, ""),
            *("" if np.isinf(s) else f"{s:.2f}" for s in (one.score, one.untrained)),
        )
        for one in example.candidates
    ]


def _pictures(example: Example, explanation: Explanation) -> list[go.Figure]:
    """The stretch after each of the two choices, from the same state and requests."""
    figures = []
    before_s = 0.2 * explanation.horizon_s
    start_s, end_s = max(0.0, example.at_s - before_s), example.at_s + 1.2 * explanation.horizon_s
    for who, branch in (("Policy", example.chosen), ("Untrained", example.other)):
        figure = timeline_figure(read_timeline(branch.run.log.frame()), from_s=start_s, to_s=end_s)
        figure.add_vline(x=example.at_s, line={"dash": "dot", "color": "black"})
        figures.append(figure.update_layout(title=f"{who}'s choice: {branch.words}, at the dotted line"))
    return figures


def _method(explanation: Explanation) -> Section:
    world, workload = explanation.world, explanation.world.scenario.workload
    rows = (
        ("scenario", world.scenario.name),
        ("devices", ", ".join(device.name for device in world.scenario.devices)),
        ("models", ", ".join(model.name for model in world.scenario.models)),
        ("requests", f"{workload.requests} a sequence, {world.rate_per_s:.4g}/s"),
        ("workload seeds", f"{min(explanation.seeds)} to {max(explanation.seeds)}, kept for explanations"),
        ("time scale", _scale(explanation)),
        ("waiting guard", f"{world.guard_s:.3g} s" if np.isfinite(world.guard_s) else "off"),
        ("policy", ", ".join(f"{k} {v}" for k, v in explanation.policy.metadata.items() if k in _FACTS)),
        ("intervals", "95 %, bootstrap over request sequences, the two policies on the same ones"),
        ("durations", "predicted by the performance model: nothing here was measured on an engine"),
    )
    return Section("How it was found out", tables=(ReportTable("", ("what", "value"), rows, prose=True),))


_FACTS = ("baseline", "generations", "validation_ratio", "elapsed_s")


def _scale(explanation: Explanation) -> str:
    return f"{explanation.world.time_scale_s:.3g} s"


def _left(group: WeightGroup) -> str:
    return f" ({group.unfinished} requests unfinished)" if group.unfinished else ""


def _mean_s(values: Sequence[float] | np.ndarray) -> str:
    mean = float(np.mean(values))
    return f"{mean:.4g} s" if np.isfinite(mean) else "not all served"


def _change(change: Interval) -> str:
    if not np.isfinite(change.value):
        return "not all served"
    return f"{change.value:+.1%} [{change.low:+.1%}, {change.high:+.1%}]"


def _pair(value: tuple[float, float]) -> str:
    mean, error = value
    if not np.isfinite(mean):
        return ""
    sign = "+" if mean > 0 else ""
    return sign + _number(mean) + (f" ± {_number(error)}" if np.isfinite(error) else "")


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2g}"


def _surely_positive(kind: Kind) -> bool:
    return all(np.isfinite(error) and mean > 2 * error for mean, error in (kind.near_s, kind.gain_s))
