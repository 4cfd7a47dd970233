"""Monte Carlo tree search on states of the environment: take one, try what follows, go back to it.

    python examples/mcts.py [REQUESTS] [SIMULATIONS]

It sees the very future that comes, arrivals and lengths included: a bound on policies, and none itself.
"""

import argparse
import math
from dataclasses import replace

import numpy as np

from shunter.agents.registry import make_policy
from shunter.envs.gym.scheduling import SchedulingEnv
from shunter.envs.world.world import make_world


def search(env, simulations, rest):
    """The action of the best mean return, ``rest`` deciding behind the tree; ``env`` stays as it was."""
    root, tree = env.get_state(), {}  # by the actions from here on: action -> (visits, mean return)
    for _ in range(simulations):
        path, total, over, fresh, seen = (), 0.0, False, [], None
        while not over:
            tried = tree.setdefault(path, {}) if not fresh else None
            if tried is not None:
                fresh = [a for a in np.flatnonzero(env.action_masks()).tolist() if a not in tried]
                action = fresh[0] if fresh else promising(tried)
                path = (*path, action)
            else:
                action = rest.act(seen)
            seen, reward, ended, cut, _ = env.step(action)
            total, over = total + reward, ended or cut
        for depth, action in enumerate(path):
            visits, mean = tree[path[:depth]].get(action, (0, 0.0))
            tree[path[:depth]][action] = (visits + 1, mean + (total - mean) / (visits + 1))
        env.set_state(root)
    return max(tree[()], key=lambda action: tree[()][action][1])


def promising(tried):
    """The action of the highest upper confidence bound (UCB1), in units of how far means lie apart."""
    means, visits = [mean for _, mean in tried.values()], sum(count for count, _ in tried.values())
    width = max(means) - min(means)
    return max(tried, key=lambda a: tried[a][1] + width * math.sqrt(math.log(visits) / tried[a][0]))


def main(requests: int = 12, simulations: int = 100) -> None:
    """Plays the same few requests by the search and by the heuristic behind it."""
    world, rest = make_world("trivial-two-models"), make_policy("cost-greedy")
    workload = world.scenario.workload.model_copy(update={"requests": requests})
    env = SchedulingEnv(
        world=replace(world, scenario=world.scenario.model_copy(update={"workload": workload}))
    )
    for name in ("mcts", rest.name):
        (seen, _), total, over = env.reset(seed=0), 0.0, False
        while not over:
            action = search(env, simulations, rest) if name == "mcts" else rest.act(seen)
            seen, reward, ended, cut, _ = env.step(action)
            total, over = total + reward, ended or cut
        print(f"{name}: return {total:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("requests", nargs="?", type=int, default=12)
    parser.add_argument("simulations", nargs="?", type=int, default=100)
    main(**vars(parser.parse_args()))
