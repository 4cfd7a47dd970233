from __future__ import annotations

import numpy as np

from shunter.envs.state import records
from shunter.envs.world.world import World


def test_every_time_is_int64_nanoseconds(fake_world: World) -> None:
    kinds = {name: value for name, value in vars(records).items() if isinstance(value, np.dtype)}
    fields = {(name, field): kind[field] for name, kind in kinds.items() for field in kind.names or ()}
    times = {at: kind for at, kind in fields.items() if at[1].endswith("_ns")}
    assert len(times) > 20
    assert set(times.values()) == {np.dtype(np.int64)}
    requests = fake_world.draw(0)
    assert requests.arrival_ns.dtype == np.int64
