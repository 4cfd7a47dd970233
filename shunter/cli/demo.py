"""``shunter demo``: the whole loop, small, on measurements of this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.rule import Rule

from shunter.agents.base import Policy
from shunter.agents.learned.base_policy import TUNED_COST_GREEDY
from shunter.agents.learned.policy import LearnedPolicy
from shunter.agents.registry import DEFAULT_POLICIES, make_policy
from shunter.catalog.models import get_model, scaled_model
from shunter.cli.demo_recipes import RECIPES, Recipe
from shunter.cli.evaluations.eval_ import show_tables
from shunter.cli.first_look import first_look
from shunter.cli.options import QuietMachine, Verbose, open_console, progress, say, say_answer
from shunter.cli.performance.fit import errors_table
from shunter.envs.scenario.scenario import load_scenario
from shunter.envs.workload.seed_ranges import SEED_RANGES
from shunter.envs.world.world import make_world
from shunter.errors import UnknownNameError
from shunter.eval.evaluation import Evaluation, evaluate
from shunter.eval.execution.faults.failure_log import execution_lines
from shunter.eval.execution.real import open_engines
from shunter.eval.fidelity.machine_words import machine_lines, machine_summary
from shunter.eval.fidelity.tables import fidelity_verdict
from shunter.eval.provenance import capabilities_of, provenance
from shunter.eval.quiet import check_quiet
from shunter.eval.saved import save_evaluation
from shunter.files import finite, write_json, write_text
from shunter.models.performance import PerformanceModel
from shunter.outputs import hold
from shunter.profiling.checkpoints.synthetic import bytes_per_weight, write_checkpoint
from shunter.profiling.dataset.busy import busy_words
from shunter.profiling.dataset.table import read_dataset
from shunter.profiling.profile import profile_models
from shunter.profiling.sweep.plan import SweepSettings
from shunter.profiling.sweep.sweep import SweepProgress
from shunter.report.words import verdict
from shunter.tracking.evaluations import evaluation_name, log_evaluation
from shunter.tracking.fits import held_out_errors, log_dataset, log_fit
from shunter.tracking.lineage import dataset_input
from shunter.tracking.runs import now_ms, tracking
from shunter.train.runs import Listener, TrainingRun, are_complete, train_runs
from shunter.train.settings import EvolutionSettings
from shunter.train.verdict import TUNED, untrained_policy, verdict_of

CONTEXT_TOKENS = 256
MAX_BATCH = 4
WORKLOAD = {"requests": 50, "load": 0.8, "prompt_scale": 0.03, "decode_scale": 0.05}
RULE_COLUMNS = 100
SIMULATED_SEEDS = range(100, 120)
"""Workload seeds of the comparison; training and its validation draw others."""


def demo(
    engine: Annotated[str, typer.Option(help=" or ".join(RECIPES) + ".")] = "transformers",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder; by default runs/demo or runs/demo-ENGINE.", show_default=False),
    ] = None,
    generations: Annotated[int, typer.Option(min=1, help="Of the training.")] = 60,
    real_seeds: Annotated[int, typer.Option(min=1, help="Request sequences to run for real.")] = 2,
    quiet_machine: QuietMachine = None,
    verbose: Verbose = False,
) -> None:
    """Profile, fit, train, compare in simulation, and run the same policies on the real engine.

    Before it measures anything it simulates a policy that comes with shunter beside what people run. Three
    models with random weights share one device that holds about half of their bytes. A
    second run goes on with what was profiled before.

    Examples:

    shunter demo

    shunter demo --engine llama-cpp --real-seeds 1 --quiet-machine wait
    """
    if engine not in RECIPES:
        raise UnknownNameError("--engine", engine, RECIPES)
    folder = out or Path("runs") / ("demo" if engine == "transformers" else f"demo-{engine}")
    hold("--out", folder, folder=True)
    shown = _Demo(open_console(), engine, RECIPES[engine], folder, verbose, quiet_machine)
    try:
        shown.run(generations, real_seeds)
    except KeyboardInterrupt:
        say(shown.console, f"Interrupted: what is finished is kept in {folder}; the same command goes on.")
        raise typer.Exit(130) from None


def demo_findings(policy: LearnedPolicy, simulated: Evaluation, real: Evaluation) -> list[str]:
    """What came of a demo in words, the answer first.

    Args:
        policy: The policy that was trained; its file says what training added.
        simulated: Evaluation of all policies in simulation.
        real: Evaluation of some of them on the engine, and of the same requests simulated.
    """
    added, in_reality = verdict_of(policy), real.to_dict()
    of_real = [line for line in verdict(in_reality) if not line.startswith("Simulated: ")]
    return [
        *machine_lines(in_reality),
        *verdict(simulated.to_dict())[:1],
        *(added.words if added is not None else ()),
        *of_real[:1],
        *fidelity_verdict(in_reality),
        *of_real[1:],
        *execution_lines(in_reality),
    ]


def _tuned() -> Policy:
    """Tuned cost-greedy by a name that people understand."""
    policy = copy(TUNED_COST_GREEDY)
    object.__setattr__(policy, "name", TUNED)
    return policy


class _Demo:
    def __init__(
        self,
        console: Console,
        engine: str,
        recipe: Recipe,
        folder: Path,
        verbose: bool,
        quiet: str | None = None,
    ) -> None:
        self.console, self.engine, self.recipe, self.folder = console, engine, recipe, folder
        self.verbose, self.quiet = verbose, quiet
        self.begun_s, self.runs = time.monotonic(), ""
        self.summary: dict[str, Any] = {"engine": engine, "mlflow_run_ids": {}}

    def run(self, generations: int, real_seeds: int) -> None:
        self._step("look", "a trained policy that comes with shunter, and what people run")
        for line in first_look(SEED_RANGES["benchmark"]):
            say(self.console, line)
        self.folder.mkdir(parents=True, exist_ok=True)
        checkpoints = self._checkpoints()
        for line in check_quiet(self.quiet, say=self._note):
            self._note(f"warning: {line}")
        self._profile(checkpoints)
        performance = self._fit()
        world = make_world(load_scenario(self._scenario(checkpoints, performance)), performance)
        self._step("train", "direct search in simulation, starting from tuned cost-greedy")
        policy_path = self.folder / "policy.safetensors"
        settings = EvolutionSettings(generations=generations)
        with progress(self.console) as bar:
            listener = Listener(lambda text: say(self.console, text), bar)
            run = TrainingRun(policy_path, settings, [world])
            trained = train_runs([run], folder=self.folder, listener=listener)
        for line in trained[0].words if trained else ():
            say(self.console, line)
        if not are_complete(trained, [run]):
            raise KeyboardInterrupt
        self.summary["mlflow_run_ids"]["train"] = trained[0].run_id
        self.policy = trained[0].policy
        learned = LearnedPolicy("trained", self.policy.weights, self.policy.metadata)
        # For real without the tuned one: on one device the untrained policy decides as it does.
        policies = [*map(make_policy, DEFAULT_POLICIES), _tuned(), untrained_policy([world]), learned]
        for_real = [policy for policy in policies if policy.name != TUNED]
        self._step("eval", f"{len(policies)} policies on {len(SIMULATED_SEEDS)} request sequences, simulated")
        begun_ms = now_ms()
        simulated = evaluate(world, policies, SIMULATED_SEEDS)
        self._keep("eval", simulated, performance, provenance(performance), policies, begun_ms)
        self._step(
            "eval --real", f"{len(for_real)} of them on {self.engine}, {real_seeds} of these sequences"
        )
        begun_ms = now_ms()
        with open_engines(world) as engines, progress(self.console) as report:
            seeds = list(SIMULATED_SEEDS)[:real_seeds]
            made = provenance(performance, capabilities_of(world, engines))
            real = evaluate(world, for_real, seeds, engines=engines, on_progress=report)
        files = self._keep("eval_real", real, performance, made, for_real, begun_ms)
        self._finish(simulated, real, files)

    def _step(self, name: str, text: str) -> None:
        rule = Rule(f"[{time.monotonic() - self.begun_s:.0f} s] {name}: {text}", align="left")
        self.console.print(rule, width=min(RULE_COLUMNS, self.console.width))

    def _note(self, text: str) -> None:
        say(self.console, text)

    def _more(self, text: str) -> None:
        """Says what only those want to read who asked for more."""
        if self.verbose:
            say(self.console, text)

    def _checkpoints(self) -> dict[str, Path]:
        self._step("checkpoint", "three models with random weights, scaled down from the catalogue")
        paths = {}
        for like, size_mb in self.recipe.sizes_mb.items():
            name = f"{like.lower()}-{size_mb}mb"
            path = self.folder / "models" / (f"{name}.gguf" if self.recipe.format == "gguf" else name)
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                params = size_mb * 1e6 / bytes_per_weight(self.recipe.quantization)
                spec = scaled_model(get_model(like), params)
                write_checkpoint(spec, path, format=self.recipe.format, quantization=self.recipe.quantization)
            self._more(f"{path}")
            paths[name] = path
        return paths

    def _profile(self, checkpoints: dict[str, Path]) -> None:
        self._step("profile", f"{self.engine} on {self.recipe.device}")
        dataset = self.folder / "profile.parquet"
        settings = SweepSettings(
            gpu_layers=self.recipe.gpu_layers,
            prompt_tokens=(15, 61, 157),
            decode_tokens=(16,),
            batch=(1, 2, MAX_BATCH),
            cut_tokens=(32, 128),
            repeats=2,
            context_tokens=CONTEXT_TOKENS,
        )
        name = f"profile {self.engine} on {self.recipe.device}: {len(checkpoints)} models"
        with tracking("profile", name, folder=self.folder) as tracker, progress(self.console) as bar:

            def report(p: SweepProgress) -> None:
                bar(f"{p.rows} rows; {p.text}", p.units_done, p.units)

            result = profile_models(
                list(checkpoints.values()),
                engine=self.engine,
                device=self.recipe.device,
                out=dataset,
                settings=settings,
                mode="resume",
                progress=report,
            )
            asked = {"engine": self.engine, "device": self.recipe.device, "models": ", ".join(checkpoints)}
            measured = {"new_rows": result.rows, "duration_s": result.duration_s}
            log_dataset(tracker, dataset, read_dataset(dataset), asked, measured=measured)
        configurations = int(read_dataset(dataset).cell_id.nunique())
        say(
            self.console,
            f"{dataset}: {result.rows} new rows, {configurations} configurations, {result.duration_s:.0f} s",
        )
        busy = busy_words(read_dataset(dataset))
        if busy:
            say(self.console, f"The machine was busy: {busy}. Predictions are of a machine like that.")
        self.summary["cells_profiled"] = configurations
        self.summary["mlflow_run_ids"]["profile"] = tracker.run_id

    def _fit(self) -> PerformanceModel:
        self._step("fit", "dataset to performance model")
        begun_ms, dataset = now_ms(), self.folder / "profile.parquet"
        rows = read_dataset(dataset)
        performance = PerformanceModel().fit(rows)
        path = performance.save(self.folder / "perf")
        if self.verbose:
            self.console.print(errors_table(performance))
        self.summary["cv_mape"] = held_out_errors(performance)
        name = f"fit {path}: {len(rows)} rows of {len(performance.models)} models"
        with tracking("fit", name, folder=self.folder, begun_ms=begun_ms) as tracker:
            log_fit(
                tracker, performance, [dataset_input(dataset, rows, "fit")], [path], {"engine": self.engine}
            )
        self.summary["mlflow_run_ids"]["fit"] = tracker.run_id
        return performance

    def _scenario(self, checkpoints: dict[str, Path], performance: PerformanceModel) -> Path:
        """Writes a scenario whose device holds about half of the models, and at least the largest."""
        configurations = [
            performance.configurations(
                self.engine,
                self.recipe.device,
                name,
                operation="load",
                max_batch=MAX_BATCH,
                max_context_tokens=CONTEXT_TOKENS,
            )
            for name in checkpoints
        ]
        sizes = [
            float(performance.predict(configuration)["device_bytes_predicted"].iloc[0])
            for configuration in configurations
        ]
        budget_mb = -(-max(0.55 * sum(sizes), 1.1 * max(sizes)) // 1e7) * 10
        scenario = {
            "name": f"demo-{self.engine}",
            "engine": self.engine,
            "models": [
                {
                    "name": name,
                    "checkpoint": str(path.relative_to(self.folder)),
                    "levels": list(self.recipe.gpu_layers),
                }
                for name, path in checkpoints.items()
            ],
            "devices": [{"name": "device-0", "device": f"{self.recipe.device}-{budget_mb:.0f}MB"}],
            "workload": WORKLOAD,
            "limits": {"max_batch": MAX_BATCH, "context_tokens": CONTEXT_TOKENS},
        }
        path = self.folder / "scenario.yaml"
        write_text(path, yaml.safe_dump(scenario, sort_keys=False))
        say(self.console, f"{path}: three models, one device of {budget_mb:.0f} MB")
        return path

    def _keep(
        self,
        kind: str,
        evaluation: Evaluation,
        performance: PerformanceModel,
        made: dict[str, Any],
        policies: Sequence[Policy],
        begun_ms: int,
    ) -> dict[str, Path]:
        """Saves and logs an evaluation; the demo ends with one that was cut short."""
        if not evaluation.simulated:
            raise KeyboardInterrupt
        folder = self.folder / ("eval-simulated" if kind == "eval" else "eval-real")
        title = f"shunter demo: {kind}"
        files = save_evaluation(evaluation, folder, title=title, performance=performance, provenance=made)
        name = evaluation_name(
            [evaluation.world], evaluation.policies, evaluation.seeds, real=kind == "eval_real"
        )
        with tracking("eval", name, folder=self.folder, begun_ms=begun_ms) as tracker:
            log_evaluation(tracker, files, evaluation.world, policies)
            if evaluation.interrupted:
                raise KeyboardInterrupt
            if evaluation.broken is not None:
                raise evaluation.broken
        self.summary["mlflow_run_ids"][kind] = tracker.run_id
        self.runs = f"MLflow:  {tracker.pages}"
        if self.verbose:
            show_tables(self.console, evaluation)
        return files

    def _summary(self, simulated: Evaluation, real: Evaluation) -> dict[str, Any]:
        """Figures of each policy: in simulation, and beside each other where it ran for real too."""
        over_all, same = simulated.to_dict()["policies"], real.to_dict()["policies"]
        found = {}
        for name, row in over_all.items():
            found[name] = {
                "simulated_response_mean_s": row["simulated"]["response_mean_s"],
                "simulated_response_change": row["simulated"]["response_change"],
            }
            if "real" in same.get(name, {}):
                found[name] |= {
                    "same_requests_simulated_response_mean_s": same[name]["simulated"]["response_mean_s"],
                    "same_requests_real_response_mean_s": same[name]["real"]["response_mean_s"],
                    "simulation_error": same[name]["simulation_error"]["response_mean_s"],
                    "corrected_error": same[name].get("corrected_error", {}).get("response_mean_s"),
                }
        return found

    def _finish(self, simulated: Evaluation, real: Evaluation, files: dict[str, Path]) -> None:
        added = verdict_of(self.policy)
        self.summary["policies"] = self._summary(simulated, real)
        self.summary["machine"] = machine_summary(real.to_dict())
        self.summary["training_added"] = None if added is None else added.model_dump(mode="json")
        self.summary["duration_s"] = time.monotonic() - self.begun_s
        summary = write_json(self.folder / "summary.json", finite(self.summary))
        self._step("done", "what came of it, and where things are")
        places = (
            f"page:    {files['report']}",
            f"summary: {summary}",
            self.runs,
        )
        say_answer(self.console, demo_findings(self.policy, simulated, real), places, verbose=self.verbose)
