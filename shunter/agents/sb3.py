"""Models of Stable-Baselines3 and sb3-contrib as policies: files that are pickles, so a user must consent."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.envs.gym.flat import flat, flat_space
from shunter.envs.gym.scheduling import make_spaces
from shunter.envs.state.state import State
from shunter.envs.world.world import World
from shunter.errors import BrokenFileError, InputError, ShunterError

__all__ = ["SB3Policy"]

CONSENT = "--unpickle"
"""The option by which a user consents."""

_BY_MODULE = {
    "stable_baselines3.dqn.policies": "DQN",
    "sb3_contrib.qrdqn.policies": "QRDQN",
    "sb3_contrib.common.maskable.policies": "MaskablePPO",
}
_BY_KEY = {"exploration_rate": "DQN", "clip_range": "PPO", "gae_lambda": "A2C"}
"""What an algorithm is told by where its policy class is not one of the library's own, in this order."""


class SB3Policy:
    """What Stable-Baselines3 learned, deciding as its ``predict`` does, without chance.

    An algorithm that knows no mask may choose illegally: that is counted. One that was trained on several
    scenarios sees this one as ``MultiSchedulingEnv`` shows it, and what it lacks is chosen illegally.

    Args:
        name: Name in tables and logs.
        model: A model of Stable-Baselines3 or sb3-contrib.
        normalizer: The ``VecNormalize`` that it was trained behind, if there was one.
    """

    oracle = False

    def __init__(self, name: str, model: Any, normalizer: Any = None) -> None:
        self.name, self.model, self.normalizer = name, model, normalizer
        self.candidates = int(getattr(model.action_space, "n", 0))
        self._masks = type(model).__name__ == "MaskablePPO"

    def check(self, world: World) -> None:
        """Refuses a world that shows other things than it was trained on.

        Raises:
            InputError: It was, or it lacks its normalizer.
        """
        field, space = f"--policy: {self.name}", self.model.observation_space
        own = make_spaces(self.candidates)[0] if self.candidates else None
        if own is None or _shapes(space) != _shapes(own) or self.candidates < world.actions:
            rule = (
                f"be trained on shunter/Scheduling-v0 or SchedulingMulti-v0 with {world.actions} candidates "
                "or more, or on SchedulingFlat-v0 with exactly so many, of this version's features"
            )
            raise InputError(field, rule, f"{_shapes(space)}, {self.model.action_space}")
        self._check_normalizer(field)

    def _check_normalizer(self, field: str) -> None:
        """What it saw last is in the file: below 0, where nothing of ours lies, it was normalized."""
        last = getattr(self.model, "_last_obs", None)
        parts = last.values() if isinstance(last, dict) else [] if last is None else [last]
        was_normalized = any(np.any(np.asarray(part) < 0) for part in parts)
        if was_normalized and (self.normalizer is None or not self.normalizer.norm_obs):
            rule = "come with :normalize=FILE, of the VecNormalize that it was trained behind"
            raise InputError(field, rule, self.name)

    def act(self, observation: dict[str, NDArray[Any]]) -> int:
        """Chooses for one observation."""
        return int(self.act_batch({key: value[None] for key, value in observation.items()})[0])

    def act_batch(self, observations: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
        """Chooses for a batch of observations; returns shape (batch,)."""
        mask = observations["action_mask"]
        lacking = self.candidates - mask.shape[1]
        if lacking <= 0:
            return self._predict(observations, mask)
        padded = {
            "candidates": np.pad(observations["candidates"], ((0, 0), (0, lacking), (0, 0))),
            "context": observations["context"],
            "action_mask": np.pad(mask, ((0, 0), (0, lacking))),
        }
        chosen = self._predict(padded, padded["action_mask"])
        illegal = np.where(mask.all(axis=1), mask.shape[1] - 1, mask.argmin(axis=1))
        return np.where(chosen < mask.shape[1], chosen, illegal)

    def _predict(self, observations: Any, mask: NDArray[Any]) -> NDArray[np.int64]:
        seen = observations if self.normalizer is None else self.normalizer.normalize_obs(observations)
        masks = {"action_masks": mask.astype(np.bool_)} if self._masks else {}
        chosen, _ = self.model.predict(seen, deterministic=True, **masks)
        return np.asarray(chosen, np.int64).reshape(-1)


class FlatSB3Policy(SB3Policy):
    """The same of a model that reads ``SchedulingFlat-v0``, which shows how much of an episode is left."""

    def check(self, world: World) -> None:
        """Refuses a world that shows other things than it was trained on."""
        if (
            self.candidates != world.actions
            or self.model.observation_space.shape != flat_space(world.actions).shape
        ):
            super().check(world)
        self._check_normalizer(f"--policy: {self.name}")

    def act_on(self, world: World, state: State, device: int, observation: dict[str, NDArray[Any]]) -> int:
        """Chooses for the asking device."""
        left = 1.0 - state.clock[0]["served"] / world.scenario.workload.requests
        seen = {key: value[None] for key, value in observation.items()}
        return int(self._predict(flat(seen, np.array([left])), seen["action_mask"])[0])

    def act_batch(self, observations: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
        """Not of an observation alone.

        Raises:
            InputError: It decides by ``act_on``.
        """
        raise InputError("--policy", "decide on what is seen: it reads what is left of an episode", self.name)


def _shapes(space: Any) -> Any:
    """The shapes of observations: one, or by name."""
    parts = getattr(space, "spaces", None)
    return {name: part.shape for name, part in parts.items()} if isinstance(parts, dict) else space.shape


def load_sb3(path: str | Path, *, consent: bool, normalize: str | None = None) -> SB3Policy:
    """Loads a model that ``save`` of Stable-Baselines3 or sb3-contrib wrote.

    Args:
        path: The ``.zip``.
        consent: Whether the user consents to run what the file holds.
        normalize: File of the ``VecNormalize`` that it was trained behind, a pickle too.

    Raises:
        InputError: Nobody consented, or there is no such file.
        BrokenFileError: It is no such model, or cannot be loaded.
        ShunterError: The libraries are missing.
    """
    if not Path(path).is_file():
        raise InputError("--policy", "be a known name or an existing policy file", str(path))
    if not consent:
        rule = f"be loaded with consent ({CONSENT}): it is a pickle, which runs whatever its author wrote"
        raise InputError("--policy", rule, str(path))
    algorithm = _algorithm(Path(path))
    try:
        from sb3_contrib import QRDQN, MaskablePPO
        from stable_baselines3 import A2C, DQN, PPO
    except ImportError as error:
        raise ShunterError(f"{path} needs the extra: pip install 'shunter[train]' ({error})") from None
    classes = {"A2C": A2C, "DQN": DQN, "MaskablePPO": MaskablePPO, "PPO": PPO, "QRDQN": QRDQN}
    # Nobody trains on: what learning needs is not made anew, least of all a replay buffer.
    unused = {"buffer_size": 1} if algorithm in ("DQN", "QRDQN") else {}
    try:
        model = classes[algorithm].load(path, device="cpu", custom_objects=unused)
    except (Exception, SystemExit) as error:  # what a pickle runs may raise anything
        raise BrokenFileError(path, f"{type(error).__name__}: {' '.join(str(error).split())}") from None
    normalizer = None if normalize is None else _normalizer(normalize)
    if normalizer is not None and _shapes(normalizer.observation_space) != _shapes(model.observation_space):
        raise InputError("--policy: normalize", "be of what the model was trained on", normalize)
    is_flat = not isinstance(_shapes(model.observation_space), dict)
    return (FlatSB3Policy if is_flat else SB3Policy)(Path(path).stem, model, normalizer)


def _algorithm(path: Path) -> str:
    """The algorithm that wrote a file, without unpickling anything.

    Raises:
        BrokenFileError: It is none that decides from an observation alone.
    """
    try:
        with zipfile.ZipFile(path) as file, file.open("data") as part:
            data = json.load(part)
        module = str(data["policy_class"]["__module__"])
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, OSError, EOFError) as error:
        raise BrokenFileError(path, f"no model of Stable-Baselines3: {error}") from None
    if "recurrent" in module:
        raise BrokenFileError(path, "a recurrent policy remembers, and policies here decide on what they see")
    found = [_BY_MODULE[module]] if module in _BY_MODULE else [n for key, n in _BY_KEY.items() if key in data]
    if not found:
        raise BrokenFileError(path, "it must be a model of PPO, A2C, DQN, QRDQN or MaskablePPO")
    return found[0]


def _normalizer(path: str) -> Any:
    """The ``VecNormalize`` of a file, without its environments.

    Raises:
        InputError: There is no such file.
        BrokenFileError: It is none.
    """
    import pickle

    from stable_baselines3.common.vec_env import VecNormalize

    if not Path(path).is_file():
        raise InputError("--policy: normalize", "be an existing file", path)
    try:
        found = pickle.loads(Path(path).read_bytes())
    except (Exception, SystemExit) as error:  # what a pickle runs may raise anything
        raise BrokenFileError(path, f"{type(error).__name__}: {error}") from None
    if not isinstance(found, VecNormalize):
        raise BrokenFileError(path, "it holds no VecNormalize")
    return found
