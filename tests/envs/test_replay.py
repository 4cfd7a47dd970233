"""What a replayed trace says of models, sessions and time, and that everything goes by it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shunter.agents.learned.file import world_facts
from shunter.envs.scenario.scenario import Scenario, load_scenario
from shunter.envs.scenario.workload import Workload
from shunter.envs.state.state import Requests
from shunter.envs.workload.draw import draw_requests
from shunter.envs.workload.lengths import cut_pairs, length_pairs, mean_lengths
from shunter.envs.workload.notes import trace_notes
from shunter.envs.workload.replay import replay_notes, replay_rate_per_s
from shunter.envs.workload.shares import popularity, shares_of
from shunter.envs.workload.slices import slice_trace
from shunter.envs.workload.traces import Trace, read_trace, write_trace
from shunter.envs.world.world import make_world
from shunter.errors import InputError, ShunterWarning, UnknownNameError
from shunter.eval.metrics.capacity import utilisation

MODELS = "abcd"


def write(path: Path, *, model: Any = "", session: Any = "", requests: int = 300) -> Path:
    """A trace of two requests a second, prompts of 1, 2, 3… tokens, in a file of its own."""
    frame = pd.DataFrame(
        {
            "arrival_s": np.arange(requests) * 0.5,
            "prompt_tokens": np.arange(1, requests + 1),
            "decode_tokens": 3,
            "model": model,
            "session": session,
        }
    )
    file = path / f"trace{len(list(path.iterdir()))}.parquet"
    write_trace(frame, file)
    return file


@pytest.mark.parametrize("as_lengths", [False, True])
def test_a_file_that_has_changed_is_read_anew_by_the_next_world(tmp_path: Path, as_lengths: bool) -> None:
    file = write(tmp_path)
    plain = scenario_of(file)
    if as_lengths:
        workload = Workload(requests=300, rate_per_s=1.0, lengths=file)
        plain = plain.model_copy(update={"workload": workload})
    assert make_world(plain).draw(0).decode_tokens.max() == 3
    frame = read_trace(file).frame
    write_trace(frame.assign(decode_tokens=7), file)
    assert make_world(plain).draw(0).decode_tokens.min() == 7


def scenario_of(file: Path, **replay: Any) -> Scenario:
    return Scenario.parse(
        {
            "name": "replayed",
            "engine": "llama-cpp",
            "devices": [{"name": "gpu", "gpu": "RTX A6000"}],
            "models": [{"name": name, "catalog": "Llama-3-8B", "quantization": "Q8_0"} for name in MODELS],
            "workload": {"requests": 300, "replay": {"file": file, **replay}},
            "limits": {"context_tokens": 1024},
        }
    )


def drawn(scenario: Scenario, seed: int = 0) -> Requests:
    workload = scenario.workload
    rate_per_s = replay_rate_per_s(workload)
    return draw_requests(workload, scenario.limits, scenario.models, rate_per_s, seed)


def counts(requests: Requests) -> list[int]:
    return np.bincount(requests.model, minlength=len(MODELS)).tolist()


def notes(scenario: Scenario) -> list[str]:
    assert scenario.workload.replay is not None
    return replay_notes(scenario.workload, scenario.workload.replay, scenario.models)


NAMED = ["a"] * 6 + ["b"] * 9 + ["c"] * 285
"""Models of 300 requests: 2, 3 and 95 %, and none for the fourth."""


@pytest.mark.parametrize("with_session", [0, 30])
def test_requests_without_a_session_are_drawn_each_for_itself(with_session: int, tmp_path: Path) -> None:
    session = [str(i % 10) for i in range(with_session)] + [""] * (300 - with_session)
    scenario = scenario_of(write(tmp_path, session=session), models="session")
    shares = np.mean([counts(drawn(scenario, seed)) for seed in range(20)], axis=0) / 300
    np.testing.assert_allclose(shares, popularity(4, 1.2), atol=0.03)
    np.testing.assert_allclose(shares_of(scenario), popularity(4, 1.2))
    requests = drawn(scenario)
    by_row = dict(zip(requests.prompt_tokens.tolist(), requests.model.tolist(), strict=True))
    assert all(by_row[row + 1] == by_row[row % 10 + 1] for row in range(with_session))
    assert f"{300 - with_session} of 300 requests name no session" in notes(scenario)[0]


def test_a_request_without_a_session_is_drawn_anew_whenever_it_comes(tmp_path: Path) -> None:
    file = write(tmp_path, session=["s", "s"] + [""] * 28, requests=30)
    requests = drawn(scenario_of(file, models="session"))
    of_row = [set(requests.model[requests.prompt_tokens == row].tolist()) for row in range(1, 31)]
    assert of_row[0] == of_row[1]
    assert len(of_row[0]) == 1
    assert sum(len(models) > 1 for models in of_row[2:]) > 20


def test_a_column_that_names_the_models_is_gone_by(tmp_path: Path) -> None:
    scenario = scenario_of(write(tmp_path, model=NAMED))
    assert counts(drawn(scenario)) == [6, 9, 285, 0]
    np.testing.assert_allclose(shares_of(scenario), [0.02, 0.03, 0.95, 0.0])
    assert notes(scenario) == []
    by_popularity = scenario_of(write(tmp_path, model=NAMED), models="zipf")
    np.testing.assert_array_equal(shares_of(by_popularity), popularity(4, 1.2))
    assert notes(by_popularity) == []


def test_what_the_column_does_not_name_is_drawn_and_said(tmp_path: Path) -> None:
    strange = [{"c": "gpt"}.get(name, name) for name in NAMED]
    scenario = scenario_of(write(tmp_path, model=strange))
    requests = drawn(scenario)
    assert (requests.model[requests.prompt_tokens <= 6] == 0).all()
    assert len(set(requests.model[requests.prompt_tokens > 15].tolist())) == 4
    expected = (np.array([6, 9, 0, 0]) + 285 * popularity(4, 1.2)) / 300
    np.testing.assert_allclose(shares_of(scenario), expected)
    [note] = notes(scenario)
    assert "285 of 300 requests name models that the scenario lacks (gpt: 285)" in note
    named = scenario_of(write(tmp_path, model=strange), names={"gpt": "d"})
    assert counts(drawn(named)) == [6, 9, 0, 285]
    assert notes(named) == []


def test_a_column_of_strange_names_only_is_drawn_by_popularity(tmp_path: Path) -> None:
    scenario = scenario_of(write(tmp_path, model=["gpt", "", "llama"] * 100))
    np.testing.assert_array_equal(shares_of(scenario), popularity(4, 1.2))
    assert (
        "200 of 300 requests name models that the scenario lacks (gpt: 100, llama: 100)" in notes(scenario)[0]
    )
    assert "100 of 300 requests name no model: theirs are drawn by popularity" in notes(scenario)[1]


def test_models_that_are_drawn_since_none_is_named_are_told(tmp_path: Path) -> None:
    (note,) = notes(scenario_of(write(tmp_path)))
    assert "300 of 300 requests name no model" in note
    assert notes(scenario_of(write(tmp_path), models="zipf")) == []


@pytest.mark.parametrize(
    ("requests", "said"),
    [(200, r"an episode is 200 of its 300 requests"), (300, r"holds all 300 of it, .* do not say")],
)
def test_it_is_said_which_stretch_an_episode_is(requests: int, said: str, tmp_path: Path) -> None:
    scenario = scenario_of(write(tmp_path, model=NAMED))
    workload = scenario.workload.model_copy(update={"requests": requests})
    [note] = trace_notes(scenario.model_copy(update={"workload": workload}))
    assert re.search(said, note)


def test_requests_that_a_context_does_not_take_are_counted(tmp_path: Path) -> None:
    scenario = scenario_of(write(tmp_path, model=NAMED))
    pairs = np.vstack(length_pairs(scenario.workload, scenario.limits))
    longer = int((pairs.sum(axis=1) > 200).sum())
    assert 0 < longer < 300
    limits = scenario.limits.model_copy(update={"context_tokens": 200})
    _, note = trace_notes(scenario.model_copy(update={"limits": limits}))
    assert f"{longer} of 300 requests are longer than a context of 200 tokens takes" in note


def test_of_what_is_too_long_only_what_does_not_fit_is_cut(tmp_path: Path) -> None:
    scenario = scenario_of(write(tmp_path))
    given = np.array([[5, 180], [5, 500], [90, 180], [300, 10], [500, 500], [20, 100]])
    limits = scenario.limits.model_copy(update={"context_tokens": 200})
    cut = [[5, 180], [5, 195], [90, 110], [190, 10], [100, 100], [20, 100]]
    np.testing.assert_array_equal(cut_pairs(given, scenario.workload, limits), cut)


def test_names_that_lead_nowhere_are_refused(tmp_path: Path) -> None:
    for models in (None, "column"):
        scenario = scenario_of(write(tmp_path, model=NAMED), models=models, names={"a": "e"})
        with pytest.raises(UnknownNameError, match=r"workload\.replay\.names"):
            shares_of(scenario)


def test_compiling_a_scenario_says_once_what_it_cannot_go_by(tmp_path: Path) -> None:
    scenario = scenario_of(write(tmp_path, model="gpt"))
    with pytest.warns(ShunterWarning, match="300 of 300 requests name models") as said:
        worlds = [make_world(scenario) for _ in range(2)]
    messages = [str(one.message) for one in said]
    assert sorted(messages) == sorted(set(messages))
    assert [world.rate_per_s for world in worlds] == pytest.approx([2.0, 2.0])


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from([*MODELS, "gpt", ""]), min_size=2, max_size=40),
    st.sampled_from([None, "zipf", "session"]),
    st.integers(0, 3),
)
def test_shares_are_those_of_what_is_drawn(
    tmp_path: Path, model: list[str], models: str | None, seed: int
) -> None:
    session = [name if models == "session" else "" for name in model]
    file = write(tmp_path, model=model, session=session, requests=len(model))
    scenario = scenario_of(file, models=models)
    shares = shares_of(scenario)
    assert shares.sum() == pytest.approx(1.0)
    assert (shares >= 0).all()
    if models is None and set(model) <= set(MODELS):
        whole = scenario.workload.model_copy(update={"requests": len(model)})
        again = scenario.model_copy(update={"workload": whole})
        np.testing.assert_allclose(shares * len(model), counts(drawn(again, seed)), atol=1e-9)


def test_lengths_are_those_of_the_models_own_requests(tmp_path: Path) -> None:
    scenario = scenario_of(write(tmp_path, model=NAMED))
    means = mean_lengths(scenario)[:, 0]
    # Rows 1 to 6, 7 to 15 and 16 to 300; nothing is known of d's: all.
    np.testing.assert_allclose(means, [3.5, 11.0, 158.0, 150.5])
    unnamed = scenario_of(write(tmp_path, model=["a"] * 6 + [""] * 294))
    np.testing.assert_allclose(mean_lengths(unnamed)[:2, 0], [150.5, 153.5])


def test_a_world_goes_by_the_traces_shares(tmp_path: Path) -> None:
    world = make_world(scenario_of(write(tmp_path, model=NAMED)))
    facts = world_facts(world)
    assert facts["popularity_top"][0] == pytest.approx(0.95)
    assert facts["popularity_least"][0] == pytest.approx(0.02)
    # Nearly all requests are c's, which are long: the mean one takes as long as they do, within 5 %.
    alone = make_world(scenario_of(write(tmp_path, model="c")))
    assert world.service_s[0] == pytest.approx(alone.service_s[0], rel=0.05)
    assert utilisation(world, 1.0)[0, 0] == pytest.approx(world.service_s[0], rel=1e-9)


def test_a_part_of_a_trace_is_its_own_trace(tmp_path: Path) -> None:
    whole = write(tmp_path, model=NAMED)
    part = scenario_of(whole, from_s=2.0, to_s=10.0, requests=12)
    frame = pd.read_parquet(whole).iloc[4:16].assign(arrival_s=np.arange(12) * 0.5)
    write_trace(frame, tmp_path / "part.parquet")
    alone = scenario_of(tmp_path / "part.parquet")
    for a, b in zip(drawn(part), drawn(alone), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(shares_of(part), np.array([2, 9, 1, 0]) / 12)
    same = {"file": whole, "from_s": 2.0, "to_s": 10.0, "requests": 12}
    lengths = Workload.model_validate({"rate_per_s": 1.0, "lengths": same})
    np.testing.assert_array_equal(length_pairs(lengths, part.limits)[:, 0], np.arange(5, 17))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"from_s": 150.0}, "requests from 150 s to its end must be at least one, of a trace of 149.5 s"),
        ({"from_s": 1.1, "to_s": 1.4}, "requests from 1.1 s to 1.4 s must be at least one"),
        ({"requests": 301}, "requests must be 1 to 300, the requests from 0 s to its end. Got 301"),
        ({"from_s": 9.0, "to_s": 2.0}, "must be a finite interval that begins at 0 or later"),
        ({"from_s": float("nan")}, "must be a finite interval"),
        ({"to_s": float("inf")}, "must be a finite interval"),
        ({"from_s": -1.0}, "must be a finite interval"),
    ],
)
def test_parts_that_there_are_none_of_are_refused(part: dict[str, Any], message: str, tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path))
    with pytest.raises(InputError, match=message):
        slice_trace(trace, **part)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 50), min_size=1, max_size=30),
    st.floats(0, 60),
    st.floats(0.001, 60),
    st.floats(0, 1e6),
)
def test_a_part_holds_what_arrives_within(
    gaps_s: list[float], from_s: float, lasts_s: float, begins_s: float
) -> None:
    arrival_s = begins_s + np.cumsum(gaps_s)
    frame = pd.DataFrame({"arrival_s": arrival_s, "row": np.arange(len(arrival_s))})
    since_s = arrival_s - arrival_s[0]
    within = (since_s >= from_s) & (since_s < from_s + lasts_s)
    trace = Trace(frame, "shunter")
    if not within.any():
        with pytest.raises(InputError, match="must be at least one"):
            slice_trace(trace, from_s, from_s + lasts_s)
        return
    part = slice_trace(trace, from_s, from_s + lasts_s).frame
    assert part["row"].tolist() == np.flatnonzero(within).tolist()
    assert part["arrival_s"].between(0, lasts_s).all()
    np.testing.assert_allclose(np.diff(part["arrival_s"]), np.diff(arrival_s[within]), atol=1e-6)


def test_parts_and_lengths_are_found_beside_the_scenario(tmp_path: Path) -> None:
    file = write(tmp_path)
    data = {
        "name": "s",
        "engine": "fake",
        "models": [{"name": "a"}, {"name": "b", "lengths": {"file": file.name, "to_s": 2.0}}],
        "devices": [{"name": "d", "device": "cpu:1-threads-50MB"}],
        "workload": {"rate_per_s": 1.0, "lengths": {"file": file.name, "from_s": 2.0}},
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(data))
    scenario = load_scenario(tmp_path / "s.yaml")
    means = mean_lengths(scenario)[:, 0]
    np.testing.assert_allclose(means, [(5 + 300) / 2, 2.5])  # rows 5 to 300, and 1 to 4
