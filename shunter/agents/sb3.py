"""Models of Stable-Baselines3 and sb3-contrib as policies: files that are pickles, so a user must consent."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shunter.errors import BrokenFileError, InputError, ShunterError

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

    An algorithm that knows no mask may choose illegally: that is counted.

    Args:
        name: Name in tables and logs.
        model: A model of Stable-Baselines3 or sb3-contrib.
        normalizer: The ``VecNormalize`` that it was trained behind, if there was one.
    """

    oracle = False

    def __init__(self, name: str, model: Any, normalizer: Any = None) -> None:
        self.name, self.model, self.normalizer = name, model, normalizer
        self._masks = type(model).__name__ == "MaskablePPO"

    def act(self, observation: dict[str, NDArray[Any]]) -> int:
        """Chooses for one observation."""
        return int(self.act_batch({key: value[None] for key, value in observation.items()})[0])

    def act_batch(self, observations: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
        """Chooses for a batch of observations; returns shape (batch,)."""
        seen = observations if self.normalizer is None else self.normalizer.normalize_obs(observations)
        masks = {"action_masks": observations["action_mask"].astype(np.bool_)} if self._masks else {}
        chosen, _ = self.model.predict(seen, deterministic=True, **masks)
        return np.asarray(chosen, np.int64).reshape(-1)


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
    return SB3Policy(Path(path).stem, model, None if normalize is None else _normalizer(normalize))


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
