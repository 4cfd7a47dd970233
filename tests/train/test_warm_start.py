from shunter.agents.cost_greedy import CostGreedy
from shunter.agents.learned import PRIOR
from shunter.agents.parameters import Choice, Number
from shunter.agents.registry import make_policy
from shunter.envs.seed_ranges import SEED_RANGES
from shunter.envs.world import World
from shunter.eval.batched import evaluate_batched
from shunter.train.warm_start import STRONG, _at, best_heuristic


def test_the_best_heuristic_of_a_world_beats_defaults_and_is_the_same_again(fake_world: World) -> None:
    best = best_heuristic(fake_world)
    response_s = {
        policy.name: evaluate_batched(fake_world, policy, SEED_RANGES["tuning"]).response_mean_s.mean()
        for policy in (best, PRIOR, *map(make_policy, STRONG))
    }
    assert response_s[best.name] == min(response_s.values())
    assert best_heuristic(fake_world).name == best.name


def test_draws_cover_the_range_that_parameters_are_tuned_in() -> None:
    space = CostGreedy.space()["load_weight"]
    assert isinstance(space, Number)
    assert (_at(space, 0.0), _at(space, 1.0)) == (space.low, space.high)
    assert _at(space, 0.5) == 1.0  # by its logarithm
    assert _at(Number(0.0, 3.0), 0.5) == 1.5
    words = Choice(("model", "byte"))
    assert [_at(words, share) for share in (0.0, 0.49, 0.5, 0.99)] == ["model", "model", "byte", "byte"]
