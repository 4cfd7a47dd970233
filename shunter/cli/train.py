"""``shunter train``: a policy trained in simulation."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from shunter.agents.learned import LearnedPolicy
from shunter.agents.registry import POLICIES, make_policy
from shunter.cli.options import PERFORMANCE, performance_of, progress, say, share
from shunter.envs.world import World, make_world
from shunter.errors import InputError, ShunterError
from shunter.eval.event_log import write_event_logs
from shunter.eval.runs import simulate
from shunter.eval.tracking import tracking
from shunter.train.settings import TrainConfig, TrainSettings, load_config

if TYPE_CHECKING:
    from shunter.train.ppo import Curve, TrainResult

__all__ = ["train", "train_and_save", "worlds_of"]

CARD_SEEDS = range(4_000_000, 4_000_010)
"""Workload seeds of the score card in a policy's file; they chose nothing."""


def train(
    scenario: Annotated[
        list[str] | None,
        typer.Option(help="Scenario file or name; repeatable: one policy for all.", show_default=False),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Training file (YAML); see the README.", show_default=False)
    ] = None,
    performance: Annotated[Path | None, typer.Option(help=PERFORMANCE, show_default=False)] = None,
    loads: Annotated[
        str | None,
        typer.Option(help="Shares of capacity to train at, like 0.5,0.7,0.9.", show_default="the scenario's"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Policy file to write.")] = Path("policy.safetensors"),
    steps: Annotated[
        int | None, typer.Option(min=1, help="Decisions to train for.", show_default="150000")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of weights, exploration and workloads.", show_default="0")
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Trainings, with seeds from --seed on; the best is kept.")
    ] = 1,
    start: Annotated[
        Path | None, typer.Option("--from", help="Policy file to start from.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the policy file.")] = False,
) -> None:
    """Train a MaskablePPO policy on scenarios, starting from cost-greedy or another policy.

    Progress shows its mean response over that of the best heuristic, on validation requests that it does not
    train on; the weights with the lowest ratio are kept, also after Ctrl-C. A checkpoint is written at every
    validation: --resume goes on from it as if nothing had happened.

    Examples:

    shunter train --scenario s.yaml --performance perf --out policy.safetensors

    shunter train --scenario paper-a6000 --scenario two-gpu-unequal --loads 0.5,0.7,0.9 --steps 2000000

    shunter train --config generalist.yaml --out generalist.safetensors --seeds 3

    shunter train --scenario s.yaml --from generalist.safetensors --steps 200000
    """
    console = Console()
    if out.exists() and not overwrite:
        raise InputError("--out", "not exist yet (or give --overwrite)", str(out))
    asked = _config(config, scenario, performance, loads)
    settings = asked.settings
    settings = replace(settings, steps=steps or settings.steps, seed=settings.seed if seed is None else seed)
    begun = None if start is None else LearnedPolicy.load(start)
    worlds, validation = worlds_of(asked, asked.scenarios), worlds_of(asked, asked.validation)
    runs = []
    for number in range(seeds):
        one = out if seeds == 1 else out.with_name(f"{out.stem}-{settings.seed + number}{out.suffix}")
        _refuse_leftovers(one, resume)
        runs.append((one, replace(settings, seed=settings.seed + number)))
    results = [
        train_and_save(console, worlds, each, path, validation=validation, start=begun)[0]
        for path, each in runs
    ]
    best = min(results, key=lambda result: min(point.ratio for point in result.curve))
    if seeds > 1:
        best.policy.save(out)
        ratios = ", ".join(f"{min(p.ratio for p in result.curve):.3f}" for result in results)
        say(console, f"{out}: the best of {seeds} seeds ({ratios})")
    if any(result.interrupted for result in results):
        say(console, "Interrupted: the best policy so far was kept; --resume goes on.")
        raise typer.Exit(130)


def _config(
    file: Path | None, scenarios: list[str] | None, performance: Path | None, loads: str | None
) -> TrainConfig:
    if (file is None) == (scenarios is None):
        raise InputError("--scenario", "be given, or --config instead", scenarios)
    config = TrainConfig.model_validate({"scenarios": scenarios}) if file is None else load_config(file)
    changes: dict[str, object] = {}
    if performance is not None:
        changes["performance"] = str(performance)
    if loads is not None:
        changes["loads"] = [share("--loads", part) for part in loads.split(",")]
    return config.model_copy(update=changes)


def worlds_of(config: TrainConfig, names: list[str]) -> list[World]:
    """The worlds of some of a training file's scenarios, at each of its loads."""
    worlds = []
    for name in names:
        given = None if config.performance is None else Path(config.performance)
        world = make_world(name, performance_of(Path(name), given))
        rates = [world.rate_per_s] if not config.loads else [world.rate_at(load) for load in config.loads]
        worlds += [replace(world, rate_per_s=rate) for rate in rates]
    return worlds


def _checkpoint(out: Path) -> Path:
    return out.with_suffix(".checkpoint.pt")


def _refuse_leftovers(out: Path, resume: bool) -> None:
    checkpoint = _checkpoint(out)
    if checkpoint.exists() and not resume:
        rule = f"be given where an unfinished training left {checkpoint} (or delete that)"
        raise InputError("--resume", rule, resume)


def train_and_save(
    console: Console,
    worlds: list[World],
    settings: TrainSettings,
    out: Path,
    *,
    validation: list[World] | None = None,
    start: LearnedPolicy | None = None,
    folder: Path | None = None,
) -> tuple[TrainResult, str]:
    """Trains, writes the policy file and, beside it, what the policy does in the first world; logs to MLflow.

    Goes on from a checkpoint that is there.

    Returns:
        The result, and the MLflow run's id.
    """
    try:
        from shunter.train.courses import make_course
        from shunter.train.ppo import train_ppo
        from shunter.train.registry import default_name, register_policy
        from shunter.train.selection import make_score_card
    except ImportError as error:
        raise ShunterError(f"training needs the extra: pip install 'shunter[train]' ({error})") from None

    names = sorted({world.scenario.name for world in worlds})
    out.parent.mkdir(parents=True, exist_ok=True)
    with tracking("train", ", ".join(names), folder=folder or Path()) as tracker:
        tracker.params({"train": asdict(settings), "scenarios": names})
        with progress(console) as bar:

            def report(steps: int, curve: Curve) -> None:
                tracker.metrics({"validation/response_ratio": curve.ratio}, step=curve.steps)
                bar(f"response {curve.ratio:.3f} of the best heuristic's", steps, settings.steps)

            courses = []
            for i, world in enumerate(worlds):
                bar("measuring cost-greedy", i, len(worlds))
                courses.append(make_course(world))
            result = train_ppo(
                courses,
                settings,
                validation=validation or None,
                start=start,
                checkpoint=_checkpoint(out),
                on_progress=report,
            )
        report(result.curve[-1].steps, result.curve[-1])
        baselines = {name: make_policy(name) for name in POLICIES}
        card = make_score_card(result.policy, worlds, baselines, CARD_SEEDS)
        result.policy.metadata.update(card.record())
        result.policy.save(out)
        events = out.with_suffix(".events.parquet")
        write_event_logs([simulate(worlds[0], result.policy, seed).log for seed in CARD_SEEDS], events)
        for path in (out, events):
            tracker.artifact(path)
        registered = register_policy(out, name=default_name("-".join(names)), worlds=worlds, tracker=tracker)
    if not result.interrupted:
        _checkpoint(out).unlink(missing_ok=True)
    best = min(point.ratio for point in result.curve)
    role = "champion" if registered.champion else "no champion"
    say(console, f"MLflow model {registered.name}, version {registered.version}, {role}: {registered.why}")
    say(
        console,
        f"{out}: {result.curve[-1].steps} decisions in {result.curve[-1].elapsed_s:.0f} s; "
        f"validation response {best:.3f} of {result.baseline}'s, the best heuristic there",
    )
    return result, tracker.run_id
