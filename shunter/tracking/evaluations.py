"""What MLflow is told of an evaluation: a run of it all, and in it one for each policy and mode.

All of these call a metric the same, so that a chart or a table compares policies, worlds, and simulation with
reality.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shunter.agents.base import Policy
from shunter.agents.learned.file import load_of
from shunter.agents.learned.policy import LearnedPolicy
from shunter.envs.world.world import World
from shunter.report.words import MODES, best_of, headline
from shunter.tracking.lineage import (
    FILE,
    POLICY,
    Input,
    policy_digest,
    policy_input,
    software_tags,
    where,
    world_inputs,
    world_params,
    world_tags,
)
from shunter.tracking.runs import Tracker

__all__ = ["evaluation_name", "log_comparison", "log_evaluation", "log_loads"]


def evaluation_name(
    worlds: Sequence[World], policies: Sequence[str], seeds: Sequence[int], *, real: bool
) -> str:
    """Tells an evaluation from others in a table of runs."""
    return f"eval {where(worlds)}: {len(policies)} policies, {len(seeds)} seeds{', real' if real else ''}"


def log_loads(
    tracker: Tracker,
    worlds: Sequence[World],
    policies: Sequence[Policy],
    sources: Mapping[str, str],
    seeds: Sequence[int],
) -> None:
    """Logs what evaluations of the same policies at several loads are of; each has a run in this one."""
    learned = [one for one in policies if isinstance(one, LearnedPolicy)]
    own = {POLICY: " ".join(map(policy_digest, learned))} if learned else {}
    tracker.tags({**software_tags(), **world_tags(worlds), **own})
    tracker.params(
        {
            **world_params(worlds),
            "policies": ", ".join(policy.name for policy in policies),
            "seeds": f"{min(seeds)}-{max(seeds)}",
            "seed_count": len(seeds),
        }
    )
    made_of = [policy_input(one, "evaluation", sources.get(one.name, "")) for one in learned]
    tracker.inputs([*world_inputs(worlds, "evaluation"), *made_of])


def log_comparison(tracker: Tracker, folder: Path, words: Sequence[str], best: Sequence[str]) -> None:
    """Logs what evaluations at several loads came to: in words, the best policy of each, and the page."""
    tracker.tags({FILE: str(folder)})
    tracker.note(words)
    tracker.params({"best": ", ".join(best), "policy": f"{', '.join(best)} (best at each load)"})
    for path in sorted(folder.iterdir()):
        if path.is_file():
            tracker.artifact(path)


def log_evaluation(
    tracker: Tracker,
    files: Mapping[str, Path],
    world: World,
    policies: Sequence[Policy] = (),
    sources: Mapping[str, str] | None = None,
) -> None:
    """Logs a saved evaluation: what it is of, its files, and a run of its own for each policy and mode.

    Args:
        tracker: The open run.
        files: From ``shunter.eval.saved.save_evaluation``.
        world: Where policies were compared.
        policies: Those that were; of learned ones the run says which.
        sources: What each policy was made of, as the user wrote it, by name.
    """
    result = json.loads(files["results"].read_text(encoding="utf-8"))
    made = result["provenance"]
    learned = {one.name: one for one in policies if isinstance(one, LearnedPolicy)}
    digests = {name: policy_digest(policy) for name, policy in learned.items()}
    tags = {**software_tags(), **world_tags([world]), FILE: str(files["results"].parent)}
    own = {POLICY: " ".join(digests.values())} if digests else {}
    tracker.tags({**tags, **own})
    tracker.note([headline(result)])
    asked = {
        "seeds": f"{min(result['seeds'])}-{max(result['seeds'])}" if result["seeds"] else "",
        "seed_count": len(result["seeds"]),
        "changes_against": result["changes_against"],
        "engine_version": made.get("engine_version"),
        "repeats": result["repeats"],
    }
    name, best = best_of(result)
    # Collapsed, the whole answers by the columns of its parts: which is best, and how good against what.
    mode = next(mode for mode in reversed(MODES) if mode in result["policies"][name])
    answer = {"best": name, "policy": _best_words(name, len(result["policies"])), "mode": mode}
    tracker.params({**world_params([world]), "policies": ", ".join(result["policies"]), **answer, **asked})
    shared = world_inputs([world], "evaluation")
    inputs = {
        name: policy_input(one, "evaluation", (sources or {}).get(name, "")) for name, one in learned.items()
    }
    tracker.inputs([*shared, *inputs.values()])
    figures = {
        "response_mean_s": best["response_mean_s"],
        "change": (best.get("response_change") or {}).get("change"),
    }
    tracker.metrics({"fidelity": result.get("fidelity", {}).get("summary", {}), "best": figures})
    tracker.metrics(
        {
            "response_mean_s": figures["response_mean_s"],
            "response_change": {"change": figures["change"]},
        }
    )
    for path in files.values():
        tracker.artifact(path)
    for name, modes in result["policies"].items():
        one = {**tags, "shunter.policy": name, **({POLICY: digests[name]} if name in digests else {})}
        # Not of the others' policies: they are what it is compared with.
        made_of = [*shared, *(one for key, one in inputs.items() if key == name)]
        for mode in MODES:
            if mode in modes:
                _log_policy(tracker, world, name, mode, modes, {**one, "shunter.mode": mode}, asked, made_of)


def _best_words(name: str, policies: int) -> str:
    """The policy of an evaluation as a whole."""
    return f"{name} (best of {policies})" if policies > 1 else name


def _log_policy(
    tracker: Tracker,
    world: World,
    name: str,
    mode: str,
    modes: Mapping[str, Any],
    tags: Mapping[str, str],
    asked: Mapping[str, Any],
    inputs: Sequence[Input],
) -> None:
    """A run of one policy in one mode, with the error of simulation where it is known."""
    with tracker.child(f"{name} {mode}, {where([world])}") as child:
        child.tags(tags)
        child.params(
            {
                "policy": name,
                "mode": mode,
                "scenario": world.scenario.name,
                "load": f"{load_of(world):.4g}",
                "objective": world.scenario.objective.metric,
                **asked,
            }
        )
        child.inputs(inputs)
        child.metrics(modes[mode])
        if mode == "real":
            child.metrics({"simulation_error": modes.get("simulation_error", {})})
