"""``shunter policy``: what a policy file holds, and what it can become."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from shunter.agents.learned.average import averaged
from shunter.agents.learned.file import FACTS, TrainedOn, training_of
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.learned.score_card import ScoreCard, score_card_of
from shunter.agents.model_uri import load_registered
from shunter.cli.options import Performance, Verbose, check_new, open_console, say, say_answer
from shunter.envs.observation.features import FEATURES
from shunter.envs.scenario.library import performance_of
from shunter.errors import InputError
from shunter.files import write_json
from shunter.outputs import hold
from shunter.train.verdict import Verdict, kept_words, shown, verdict_of

File = Annotated[
    str, typer.Argument(help="Policy file, or models:/NAME@champion in MLflow.", show_default=False)
]


def policy_show(
    file: File,
    verbose: Verbose = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say how a policy did, and what it was trained on; --verbose: scenario by scenario, with all settings.

    Examples:

    shunter policy show policy.safetensors

    shunter policy show models:/shunter-demo@champion --json
    """
    console = open_console()
    policy = _learned(file)
    training, card, verdict = training_of(policy), score_card_of(policy), verdict_of(policy)
    if as_json:
        print(json.dumps(_plain(policy, training, card, verdict), indent=1))
        return
    findings = [
        *(verdict.words if verdict is not None else ("The file does not say what training added.",)),
        *([kept_words(policy)] if kept_words(policy) else []),
        *_card_lines(card),
        _training_line(training),
        f"{policy.name}: features version {policy.metadata['features_version']}",
    ]
    say_answer(console, findings)
    if verbose and training is not None:
        _show_training(console, training)
    if verbose and card is not None:
        console.print(card_table(card))


def _card_lines(card: ScoreCard | None) -> list[str]:
    """What a score card comes to."""
    if card is None:
        return ["The file holds no score card."]
    ends = [(cell.low, cell.high) for cell in card.cells]
    lower = sum(high is not None and high < 0 for _, high in ends)
    higher = sum(low is not None and low > 0 for low, _ in ends)
    mean = "" if card.change is None else f" is {card.change:+.1%} in the geometric mean (negative = lower),"
    return [
        f"Against the best baseline of each scenario and load its mean response{mean} lower by more than "
        f"chance in {lower} of {len(ends)}, higher in {higher}, undecided in {len(ends) - lower - higher} "
        f"({len(card.seeds)} request sequences, 95 % intervals)"
    ]


def _training_line(training: TrainedOn | None) -> str:
    if training is None:
        return "The file does not say what it was trained on."
    loads = sorted(training.loads)
    ends = " to ".join(dict.fromkeys(f"{load:.3g}" for load in (loads[0], loads[-1]))) if loads else "unknown"
    counted = (("scenarios", training.scenarios), ("models", training.models), ("devices", training.devices))
    what = ", ".join(f"{len(names)} {name if len(names) != 1 else name[:-1]}" for name, names in counted)
    return f"Trained for {training.steps} decisions, seed {training.seed}, on {what}, load {ends}"


def policy_average(
    files: Annotated[list[Path], typer.Argument(help="Policy files.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Policy file to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the policy file.")] = False,
) -> None:
    """Make several policies one, whose scores are the mean of theirs: seeds of one training, say.

    It is one network, as wide as all of them together, and takes as much longer to decide. Whether it is
    better than each of them, `shunter eval` says.

    Examples:

    shunter train --config generalist.yaml --seeds 2 --out p.safetensors

    shunter policy average p-0.safetensors p-1.safetensors --out mean.safetensors
    """
    if len(files) < 2:
        raise InputError("FILES", "be at least two policy files", len(files))
    check_new("--out", out, overwrite=overwrite)
    policy = averaged([LearnedPolicy.load(file) for file in files])
    policy.save(out)
    width = len(policy.weights["encode_1.bias"])
    say(open_console(), f"{out}: the mean of {len(files)} policies, a network of width {width}")


def policy_export(
    file: File,
    onnx: Annotated[Path, typer.Option(help="ONNX file to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the ONNX file.")] = False,
) -> None:
    """Write a policy as an ONNX graph, for schedulers that are not written in Python.

    It takes any number of decisions at once, of any number of candidates.

    Examples:

    shunter policy export policy.safetensors --onnx policy.onnx
    """
    from shunter.agents.learned.onnx import export_onnx

    check_new("--onnx", onnx, overwrite=overwrite)
    export_onnx(_learned(file), onnx)
    say(open_console(), f"{onnx}: {onnx.stat().st_size} bytes")


def policy_explain(
    file: File,
    scenario: Annotated[Path, typer.Option(help="Scenario to explain it in: a file or a name.")],
    performance: Performance = None,
    load: Annotated[
        float | None, typer.Option(min=0.01, help="Instead of the scenario's.", show_default=False)
    ] = None,
    seeds: Annotated[int, typer.Option(help="Request sequences, of those kept for explanations.")] = 10,
    seed_of_examples: Annotated[
        int, typer.Option(min=0, help="Draws the decisions that are looked at closely.")
    ] = 0,
    out: Annotated[Path, typer.Option(help="Page to write.")] = Path("explanation.html"),
    as_json: Annotated[
        Path | None, typer.Option("--json", help="Figures to write.", show_default=False)
    ] = None,
) -> None:
    """Show why a trained policy does as it does: what it learned, what that changes, what that is worth.

    It is set beside itself untrained on requests that nothing was chosen on. Where the two would decide
    otherwise, both choices are played out on the same requests.

    Examples:

    shunter policy explain policy.safetensors --scenario two-gpu-unequal --load 0.7 --out page.html
    """
    from shunter.envs.world.world import make_world
    from shunter.eval.explain.explain import SEEDS, explain
    from shunter.report.explain import explanation_lines, write_explanation

    console = open_console()
    for option, path in (("--out", out), ("--json", as_json)):
        hold(option, path, make=False)
    if not 2 <= seeds <= len(SEEDS):
        raise InputError("--seeds", f"be 2 to {len(SEEDS)}", seeds)
    policy = _learned(file)
    world = make_world(scenario, performance_of(scenario, performance))
    world = world if load is None else world.at_load(load)
    explanation = explain(
        world,
        policy,
        SEEDS[:seeds],
        sample_seed=seed_of_examples,
        on_progress=lambda text: say(console, text),
    )
    if as_json is not None:
        write_json(as_json, explanation.to_dict())
    for line in explanation_lines(explanation):
        say(console, line)
    say(console, f"page: {write_explanation(explanation, out)}")


def policy_register(
    file: Annotated[Path, typer.Argument(help="Policy file.", show_default=False)],
    scenario: Annotated[list[Path], typer.Option(help="Scenario to compare on (YAML); repeatable.")],
    performance: Performance = None,
    name: Annotated[
        str | None, typer.Option(help="To register under. Default: shunter-SCENARIO.", show_default=False)
    ] = None,
) -> None:
    """Register a policy in MLflow; it becomes the champion if it is shown to be better than the present one.

    And nothing becomes champion that is not shown to be better than the best heuristic there. All serve the
    same requests, of seeds that neither training nor evaluation uses; the whole interval of the change in
    mean response must be below zero.

    Examples:

    shunter policy register policy.safetensors --scenario s.yaml --performance perf
    """
    from shunter.envs.world.world import make_world
    from shunter.sinks import registry_name, registry_name_of
    from shunter.tracking.lineage import where
    from shunter.tracking.policies import register_policy
    from shunter.tracking.runs import tracking
    from shunter.tracking.trainings import log_registration

    if name is not None:
        registry_name("--name", name)
    policy = LearnedPolicy.load(file)
    worlds = [make_world(path, performance_of(path, performance)) for path in scenario]
    if name is None and len(worlds) > 1:
        raise InputError("--name", "be given with more than one scenario", name)
    name = name or registry_name_of(worlds[0].scenario.name)
    with tracking("register", f"register {name}: {file.name} on {where(worlds)}") as tracker:
        log_registration(tracker, policy, worlds, file=file)
        done = register_policy(file, name=name, worlds=worlds, tracker=tracker)
    role = "champion" if done.champion else "not the champion"
    version = f"version {done.version}" if done.version else "not registered yet"
    say_answer(open_console(), (f"{name} {version}: {role}", done.why))


def card_table(card: ScoreCard) -> Table:
    """A row for each scenario and load."""
    title = f"Validation, {len(card.seeds)} workload seeds ({min(card.seeds)} to {max(card.seeds)})"
    table = Table("scenario", title=title, caption="Change: negative = lower = better.")
    for text in ("load", "mean response", "best baseline", "its response", "change, 95 % interval"):
        table.add_column(text, justify="left" if text == "best baseline" else "right")
    for cell in card.cells:
        change = "-"
        if cell.change is not None:
            change = f"{cell.change:+.1%}"
        if cell.low is not None and cell.high is not None:
            change += f" ({cell.low:+.1%} to {cell.high:+.1%})"
        own = _seconds(cell.response_s) if cell.unfinished == 0 else f"{cell.unfinished} unfinished"
        theirs = _seconds(cell.baseline_response_s)
        table.add_row(cell.scenario, f"{cell.load:.2g}", own, shown(cell.baseline), theirs, change)
    return table


def _seconds(value: float | None) -> str:
    return "unfinished" if value is None else f"{value:.3g} s"


def _show_training(console: Console, training: TrainedOn) -> None:
    for title, items in (
        ("scenarios", training.scenarios),
        ("loads", [f"{load:.3g}" for load in training.loads]),
        ("models", training.models),
        ("devices", training.devices),
        ("settings", [f"{key} = {value}" for key, value in training.settings.items()]),
    ):
        say(console, f"  {title}: {', '.join(items)}")
    for name, (low, high) in training.ranges.items():
        if name in FACTS:
            ends = dict.fromkeys(FACTS[name].show(value) for value in (low, high))
            say(console, f"  {FACTS[name].text}: {' to '.join(ends)}")


def _plain(
    policy: LearnedPolicy, training: TrainedOn | None, card: ScoreCard | None, verdict: Verdict | None
) -> dict[str, Any]:
    apart = ("training", "score_card", "verdict", "features")
    other = {key: value for key, value in policy.metadata.items() if key not in apart}
    return {
        **other,
        "name": policy.name,
        "features": list(FEATURES),
        "training": training.model_dump(mode="json") if training else None,
        "score_card": {**card.model_dump(mode="json"), "change": card.change} if card else None,
        "verdict": verdict.model_dump(mode="json") if verdict else None,
    }


def _learned(text: str) -> LearnedPolicy:
    return load_registered(text) if text.startswith("models:/") else LearnedPolicy.load(text)
