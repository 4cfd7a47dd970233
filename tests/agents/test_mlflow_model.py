from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

from shunter.agents.mlflow_model import LEAST, PolicyModel
from shunter.envs.world.world import World
from tests.agents.test_policies import observations
from tests.networks import random_policy


def batch(world: World) -> dict[str, NDArray[Any]]:
    seen = observations(world)
    return {name: np.stack([one[name] for one in seen]) for name in seen[0]}


def test_answers_are_json_that_every_reader_takes(fake_world: World) -> None:
    model, asked = PolicyModel(random_policy(1, 30.0)), batch(fake_world)
    answer = model.predict(asked)
    json.dumps({name: array.tolist() for name, array in answer.items()}, allow_nan=False)
    assert (answer["scores"][asked["action_mask"] == 0] == LEAST).all()
    np.testing.assert_array_equal(answer["choice"], model.policy.act_batch(asked))
    best = answer["scores"].max(axis=1)
    np.testing.assert_allclose(answer["scores"][np.arange(len(best)), answer["choice"]], best, rtol=1e-5)


def without(row: int) -> Any:
    def change(mask: NDArray[Any]) -> NDArray[Any]:
        mask[row] = 0
        return mask

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("action_mask", without(2), "must allow a candidate in each row. Row 2 allows none"),
        ("action_mask", lambda mask: mask * 2, "action_mask must hold 0 and 1 only. Got 2"),
        ("action_mask", lambda mask: mask - 1, "action_mask must hold 0 and 1 only. Got -1"),
        ("action_mask", lambda mask: mask[:, 1:], "candidates must be for the"),
        ("context", lambda context: context[1:], "context must have"),
        ("context", lambda context: context * np.nan, "context must be finite"),
        ("candidates", lambda candidates: candidates + np.inf, "candidates must be finite"),
    ],
)
def test_what_no_decision_can_be_made_of_is_refused(
    fake_world: World, name: str, change: Any, message: str
) -> None:
    asked = batch(fake_world)
    with pytest.raises(MlflowException, match=message) as caught:
        PolicyModel(random_policy(1)).predict({**asked, name: change(asked[name].copy())})
    assert caught.value.get_http_status_code() == 400


def test_requests_at_once_do_not_mix(fake_world: World) -> None:
    model, asked = PolicyModel(random_policy(1, 30.0)), batch(fake_world)
    parts = [{name: array[i : i + 1] for name, array in asked.items()} for i in range(len(asked["context"]))]
    alone = [model.predict(part)["choice"][0] for part in parts]
    with ThreadPoolExecutor(4) as pool:
        together = [answer["choice"][0] for answer in pool.map(model.predict, parts * 4)]
    assert together == alone * 4
