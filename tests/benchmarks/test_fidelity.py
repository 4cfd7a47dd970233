from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from benchmarks import fidelity_runs
from benchmarks.fidelity import FULL, OTHER_S, QUICK, _scale
from benchmarks.fidelity_hog import disturbed
from benchmarks.fidelity_machine import corrected_row, machine_rows
from benchmarks.fidelity_null import COMPARISONS, COPIES, ROUNDS, comparison_jobs, rows_of
from benchmarks.fidelity_place import GRID, LOADS, PLACES, Place, Site
from benchmarks.fidelity_rows import BARS, cells, drift_rows, error_rows, gain_rows, order_rows, other_rows
from benchmarks.fidelity_runs import Job, RealRuns
from shunter.agents.registry import make_policy
from shunter.engines.base import EngineError
from shunter.envs.scenario.scenario import load_scenario
from shunter.envs.world.world import World
from shunter.eval.evaluation import Evaluation
from shunter.eval.execution.event_log import write_event_logs
from shunter.eval.execution.runs import Run, as_repeat, simulate
from shunter.eval.execution.sentinel import PARTS
from shunter.eval.execution.slowdowns import slowed
from shunter.eval.fidelity.replay import replay_predicted
from shunter.eval.fidelity.slowed import simulate_slowed
from shunter.models.performance import PerformanceModel
from tests.eval.test_replay import Slower
from tests.fake_executor import execute

NAMES = ["fifo-swap", "lru-keepalive", "cost-greedy"]


@pytest.fixture(scope="module")
def found(fake_world: World) -> dict[float, Evaluation]:
    """Two loads alike, on engines that decode at half the predicted speed; each policy twice."""
    evaluation = Evaluation(fake_world, NAMES, [0], repeats=2)
    for name in NAMES:
        policy = make_policy(name)
        evaluation.simulated[name] = [simulate(fake_world, policy, 0)]
        runs = [as_repeat(execute(fake_world, policy, 0, Slower), repeat) for repeat in range(2)]
        evaluation.real[name] = runs
        evaluation.replays[name] = [
            replay_predicted(fake_world, fake_world.draw(0), run.log.frame()) for run in runs
        ]
    return {0.5: evaluation, 0.8: evaluation}


@pytest.mark.parametrize("site", PLACES, ids=lambda site: site.engine)
def test_committed_scenarios_are_of_their_engine_and_load(site: Site) -> None:
    scenario = load_scenario(site.scenario)
    assert scenario.engine == site.engine
    assert scenario.workload.load == LOADS[-1]
    assert scenario.workload.capacity_rate_per_s is None
    assert scenario.devices[0].spec.hardware_name == site.device
    assert scenario.limits.context_tokens == GRID.context_tokens
    assert scenario.limits.max_batch == max(GRID.batch)


@pytest.mark.parametrize(("quick", "minutes"), [(True, 5.0), (False, 60.0)])
def test_the_whole_time_is_planned_and_real_runs_get_what_is_left(quick: bool, minutes: float) -> None:
    scale = _scale(quick, minutes, engines=2)
    spent_s = scale.profile_s + scale.train_s + scale.real_s + OTHER_S[quick]
    assert 2 * spent_s == 60 * minutes
    assert scale.real_s > 0.2 * spent_s


def test_a_full_run_has_what_was_asked_for() -> None:
    assert FULL.requests >= 60
    assert FULL.repeats >= 3
    assert QUICK.repeats >= 2  # without, noise is unknown


def test_errors_are_medians_over_cells_and_noise_widens_bars(found: dict[float, Evaluation]) -> None:
    rows = {row.metric: row for row in error_rows("fake", found)}
    for (quantity, statistic), bar in BARS.items():
        row = rows[f"fake: {statistic} {quantity}, simulated against real, median over cells"]
        some = cells(found, quantity, statistic)
        assert len(some) == 6
        assert row.value == pytest.approx(np.median([cell.error for cell in some]))
        assert row.bar == f"<= {bar:g}"  # a virtual clock has no noise
        assert row.ok == (row.value <= bar)
        assert rows[row.metric.replace("median over cells", "largest")].value == max(c.error for c in some)
    assert not rows["fake: mean TPOT, simulated against real, median over cells"].ok


def test_gains_are_judged_at_the_scenarios_own_load_only(found: dict[float, Evaluation]) -> None:
    rows = gain_rows("fake", found, learned="cost-greedy")
    assert [row.ok is None for row in rows] == [False, False, True, True]
    means = {n: found[0.8].fidelity().of(n).real_s for n in NAMES}
    assert rows[0].value == pytest.approx(1 - means["cost-greedy"] / means["fifo-swap"])
    assert not rows[0].ok
    assert "simulated" in rows[0].note


def test_only_pairs_that_differ_in_reality_are_judged(found: dict[float, Evaluation]) -> None:
    row, *taus = order_rows("fake", found)
    ranking = found[0.5].fidelity().ranking
    assert ranking is not None
    expected = ranking.agreeing / ranking.significant if ranking.significant else None
    assert row.value == expected
    assert f"of {2 * len(ranking.pairs)} in all" in row.note
    assert len(taus) == 2


def test_the_rest_says_where_errors_come_from(found: dict[float, Evaluation]) -> None:
    rows = {row.metric: row for row in other_rows("fake", found)}
    assert rows["fake: decode at load 0.5, predicted against measured, of the sum"].value == pytest.approx(
        -0.5, abs=1e-6
    )
    assert rows["fake: real runs"].value == 12
    rounds = rows["fake: all operations, predicted against measured, between the rounds' least and most"]
    assert rounds.value == pytest.approx(0, abs=1e-9)
    assert rounds.note.count("round ") == 2
    assert rows["fake: mean load over mean service"].value > 0


def test_drift_is_of_the_configurations_that_were_measured_again() -> None:
    before = pd.DataFrame(
        {"operation": "decode", "cell_id": list("aabc"), "duration_s": [1.0, 3.0, 1.0, 9.0]}
    )
    after = pd.DataFrame({"operation": "decode", "cell_id": list("ab"), "duration_s": [2.2, 1.1]})
    load, _, decode = drift_rows("fake", before, after)
    assert load.value is None
    assert decode.value == pytest.approx(0.1)
    assert decode.note.startswith("2 cells")


def test_copies_of_a_policy_run_in_balanced_rounds_of_sequences_of_their_own() -> None:
    jobs = [job for number in range(COMPARISONS) for job in comparison_jobs(number)]
    assert len({job.file for job in jobs}) == len(jobs) == COMPARISONS * 2 * ROUNDS
    for number in range(COMPARISONS):
        first = [job.policy for job in comparison_jobs(number)][::2]
        assert first.count(COPIES[0]) == first.count(COPIES[1]) == ROUNDS / 2
    assert len({comparison_jobs(number)[0].policy for number in range(COMPARISONS)}) == 2


@pytest.mark.parametrize(("factor", "significant"), [(1.0, 0), (1.5, 3)])
def test_copies_that_differ_are_counted(fake_world: World, factor: float, significant: int) -> None:
    base = simulate(fake_world, make_policy("lru-keepalive"), 0)
    r = base.requests
    slower = r.assign(finish_s=r.arrival_s + factor * (r.finish_s - r.arrival_s))
    comparisons = [
        [
            replace(base, policy=job.policy, seed=job.seed, requests=slower if job.policy == COPIES[0] else r)
            for job in comparison_jobs(number)
        ]
        for number in range(3)
    ]
    row = rows_of("fake", comparisons)[0]
    assert row.value == significant
    assert row.ok is (significant <= 2)


class Engines:
    """Stands for real ones: counts runs, and fails once if told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fail_at: int = -1) -> None:
        self.made: list[str] = []
        self.fail_at = fail_at
        monkeypatch.setattr(fidelity_runs, "open_engines", lambda world: nullcontext([]))
        monkeypatch.setattr(fidelity_runs, "run_real", self.run)

    def run(self, world: World, policy: object, seed: int, engines: object) -> Run:
        if len(self.made) == self.fail_at:
            self.fail_at = -1
            raise EngineError("the worker died")
        self.made.append(str(getattr(policy, "name", "")))
        return execute(world, make_policy(self.made[-1]), seed, Slower)


def test_a_killed_benchmark_goes_on_with_the_runs_that_are_missing(
    fake_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = Engines(monkeypatch, fail_at=1)
    jobs = [Job(0.5, name, 0, repeat) for repeat in range(2) for name in NAMES[:2]]
    worlds, policies = {0.5: fake_world}, {name: make_policy(name) for name in NAMES}
    lines: list[str] = []
    runs = RealRuns(tmp_path, lines.append)

    runs.make(jobs[:2], worlds, policies)
    assert runs.failed == 1
    assert any("the worker died" in line for line in lines)
    runs.make(jobs, worlds, policies)

    assert engines.made == [job.policy for job in jobs]
    read = runs.read(fake_world, jobs[3])
    direct = execute(fake_world, make_policy(jobs[3].policy), 0, Slower)
    pd.testing.assert_frame_equal(read.requests, direct.requests)
    assert read.log.run["run_id"] == "lru-keepalive/0/real/1"


def test_a_run_that_cannot_be_read_back_is_made_again(
    fake_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = Engines(monkeypatch)

    def spoilt(*arguments: object) -> Run:
        run = engines.run(*arguments)  # type: ignore[arg-type]
        if len(engines.made) == 1:
            next(row for row in run.log.rows if row["end_s"] is not None)["end_s"] += 1.0
        return run

    monkeypatch.setattr(fidelity_runs, "run_real", spoilt)
    runs = RealRuns(tmp_path, lambda line: None)
    runs.make([Job(0.5, "fifo-swap", 0, 0)], {0.5: fake_world}, {"fifo-swap": make_policy("fifo-swap")})
    assert (runs.failed, len(engines.made)) == (1, 2)
    assert runs.read(fake_world, Job(0.5, "fifo-swap", 0, 0)).requests.finish_s.notna().all()


def test_a_plan_is_kept_and_no_request_has_the_lengths_of_a_profiled_configuration(
    fake_world: World, fake_performance: PerformanceModel, tmp_path: Path
) -> None:
    scale = FULL.__class__(**{**vars(FULL), "real_s": 4000.0})
    place = Place(PLACES[0], tmp_path, scale, None, lambda line: None)
    fake_performance.save(tmp_path / "perf")
    np.save(tmp_path / "footprints.npy", fake_world.tables.footprint_bytes)
    scenario = fake_world.scenario.model_dump(mode="json")
    (tmp_path / "scenario.yaml").write_text(json.dumps(scenario))
    policies = [make_policy(name) for name in NAMES]

    requests, jobs = place.plan(policies)

    assert requests >= scale.requests
    rounds = list(dict.fromkeys((job.seed, job.repeat) for job in jobs))
    assert rounds[0][1] == 0
    assert sum(seed == rounds[0][0] for seed, _ in rounds) == scale.repeats
    assert len(jobs) == len(rounds) * len(LOADS) * len(NAMES)
    assert jobs[0].policy != jobs[len(LOADS) * len(NAMES)].policy  # each round begins with the next one
    profiled = {(p, d) for p in GRID.prompt_tokens for d in GRID.decode_tokens}
    for seed, _ in rounds:
        drawn = place.world(LOADS[0], requests).draw(seed)
        assert not profiled & set(
            zip(drawn.prompt_tokens.tolist(), drawn.decode_tokens.tolist(), strict=True)
        )
    assert Place(PLACES[0], tmp_path, QUICK, None, print).plan(policies) == (requests, jobs)


def test_runs_on_a_slower_machine_are_corrected_by_what_the_sentinel_saw(
    fake_world: World, tmp_path: Path
) -> None:
    """Everything takes twice as long in the run, and the sentinel saw 2 on every device."""
    policy, job = make_policy("fifo-swap"), Job(0.5, "fifo-swap", 0, 0)
    run = simulate(
        slowed(fake_world, [dict.fromkeys(PARTS, 2.0) for _ in range(fake_world.devices)]), policy, 0
    )
    run.log.world, run.log.run["mode"] = fake_world, "real"
    runs = RealRuns(tmp_path, lambda line: None)
    write_event_logs([run.log], tmp_path / job.file)
    readings = [
        {
            "at_s": 1.0,
            "device": device.name,
            "measured_s": dict.fromkeys(PARTS, 2.0),
            "expected_s": dict.fromkeys(PARTS, 1.0),
            "uncertainty": 0.0,
            "profiled": True,
        }
        for device in fake_world.scenario.devices
    ]
    when = {"seed": 0, "repeat": 0, "start_s": 0.0, "end_s": 100.0, "others_cores": 1.5}
    kept = {"readings": readings, "spent_s": 3.0, "runs": {job.file: when}}
    (tmp_path / "machine-0.json").write_text(json.dumps(kept), encoding="utf-8")

    evaluation = Evaluation(fake_world, [policy.name], [0])
    evaluation.simulated[policy.name] = [simulate(fake_world, policy, 0)]
    evaluation.real[policy.name] = [runs.read(fake_world, job)]
    evaluation.replays[policy.name] = [
        replay_predicted(fake_world, fake_world.draw(0), r.log.frame()) for r in evaluation.real[policy.name]
    ]
    ((course, stretches),) = runs.courses(fake_world)
    corrected = simulate_slowed(fake_world, policy, course, stretches[job.file])
    assert corrected is not None
    evaluation.slowed[policy.name] = [corrected]

    found = {0.5: evaluation}
    row = corrected_row("fake", found, 0.05)
    assert row.value == pytest.approx(0.0, abs=1e-6)
    assert row.ok
    assert cells(found, "response", "mean")[0].error > 0.4
    operations, share, pace, others = machine_rows("fake", runs, [job], found)
    assert operations.value == pytest.approx(0.0, abs=0.01)
    assert (share.value, share.ok) == (pytest.approx(0.03), False)
    assert (pace.value, others.value) == (pytest.approx(2.0), 1.5)


def test_the_disturbance_is_nobodys_child_and_ends() -> None:
    with disturbed(2) as pids:
        assert len(set(pids)) == 2
        assert not {child.pid for child in psutil.Process().children(recursive=True)} & set(pids)
        programs = [psutil.Process(pid) for pid in pids]
        assert all("fidelity_hog" in " ".join(one.cmdline()) for one in programs)
    gone, alive = psutil.wait_procs(programs, timeout=30)
    assert (len(gone), alive) == (2, [])
