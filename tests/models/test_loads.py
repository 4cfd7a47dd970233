"""Published loads by where their bytes come from: rows, model, and what it knows that it does not know."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from shunter.errors import InputError, UnknownNameError
from shunter.models.performance import PerformanceModel
from shunter.models.published.load_costs import load_costs
from shunter.models.published.load_rows import FALL_ASLEEP, LOAD_SOURCES, load_rows, refused_loads
from shunter.models.published.loads import LoadModel, published_loads
from tests.models.conftest import DEVICE

GIB = 2**30


def _asked(**columns: object) -> pd.DataFrame:
    n = max((len(value) for value in columns.values() if isinstance(value, list)), default=1)
    return pd.DataFrame({k: v if isinstance(v, list) else [v] * n for k, v in columns.items()})


def _planted(rng: np.random.Generator, hosts: int = 8) -> pd.DataFrame:
    """Loads from pinned memory at 0.7 of a link's rate after 0.2 s, and from the page cache at 4 GB/s."""
    rows = []
    for host in range(hosts):
        for path, seconds in (("pinned", 1 / (0.7 * 31.5e9)), ("page-cache", 1 / 4e9)):
            own = np.exp(rng.normal(0, 0.2))
            for size in (2e9, 8e9, 32e9):
                rows.append(
                    {
                        "source_url": f"https://{host}",
                        "host": f"{host}",
                        "path": path,
                        "loader": "parallel" if path == "pinned" else "plain",
                        "bytes": size,
                        "gpu_count": 1,
                        "link_bytes_per_s": 31.5e9,
                        "storage_bytes_per_s": np.nan,
                        "duration_s": own * (0.2 + size * seconds) * np.exp(rng.normal(0, 0.05)),
                    }
                )
    return pd.DataFrame(rows)


def test_rows_are_of_known_paths_and_say_what_moved_and_who_measured() -> None:
    rows = load_rows()
    assert set(rows["path"]) == {*LOAD_SOURCES, *FALL_ASLEEP}
    assert (rows[["bytes", "link_bytes_per_s", "duration_s", "gpu_count"]] > 0).all().all()
    assert rows["source_url"].str.startswith("https://").all()
    assert rows["row_id"].is_unique
    # What the paper's tables have of one GPU is the swap's share of a preemption.
    paper = rows[rows["row_id"].isin(["p0000", "p0020"])].set_index("row_id")["duration_s"]
    assert paper["p0000"] == pytest.approx(2.98 * 0.994)
    assert paper["p0020"] == pytest.approx(5.73 * 0.988)


def test_rows_that_do_not_say_where_bytes_came_from_are_left_out_with_the_reason() -> None:
    why = refused_loads()
    assert why["w015"] == "where its bytes come from is not told"
    assert why["w008"] == "its GPU is not told, or has no data sheet"
    assert not set(why.index) & set(load_rows()["row_id"])


def test_a_fit_finds_planted_rates() -> None:
    model = LoadModel.fit(_planted(np.random.default_rng(1)))
    asked = _asked(path=["pinned", "page-cache"], bytes=64e9, link_bytes_per_s=31.5e9)
    done = model.predict(asked)["duration_s_predicted"]
    assert done[0] == pytest.approx(0.2 + 64e9 / (0.7 * 31.5e9), rel=0.2)
    assert done[1] == pytest.approx(0.2 + 64e9 / 4e9, rel=0.2)


def test_intervals_hold_what_they_say_of_hosts_that_were_not_seen() -> None:
    rng = np.random.default_rng(2)
    model, others = LoadModel.fit(_planted(rng, 12)), _planted(rng, 60)
    done = model.predict(others)
    inside = others["duration_s"].between(done["duration_s_low"], done["duration_s_high"])
    assert 0.8 < inside.mean() <= 1.0
    assert np.log(done["duration_s_high"] / done["duration_s_low"]).max() < 2 * np.log(3)


def test_pinned_memory_is_faster_than_the_page_cache_and_that_than_a_disk() -> None:
    asked = _asked(path=["pinned", "sleep-1", "page-cache", "disk"], bytes=16 * GIB, link_bytes_per_s=31.5e9)
    done = published_loads().predict(asked)["duration_s_predicted"]
    assert done.is_monotonic_increasing
    # A faster link helps what is pinned, and no other.
    faster = published_loads().predict(asked.assign(link_bytes_per_s=63e9))["duration_s_predicted"]
    assert (faster < 0.8 * done).tolist() == [True, True, False, False]


def test_what_is_not_known_widens_and_is_said() -> None:
    loads = published_loads()
    known = _asked(path="pinned", bytes=16e9, link_bytes_per_s=31.5e9)
    guessed = known.drop(columns="link_bytes_per_s")
    anywhere = known.assign(path="")
    widths, why = [], []
    for asked in (known, guessed, anywhere):
        done = loads.predict(asked).iloc[0]
        widths.append(done["duration_s_high"] / done["duration_s_low"])
        why.append(done["why_out_of_range"])
    assert widths == sorted(widths)
    assert why[0] == "published, not measured here; 16 GB: seen 65.5 to 65.5"
    assert "the link is not known, 31.5 GB/s taken" in why[1]
    assert "where the bytes come from is not told" in why[2]
    parallel = _asked(path="disk", bytes=16e9, loader="parallel", storage_bytes_per_s=[np.nan, 3e9])
    done = loads.predict(parallel)
    assert "the disk's rate is not told, 3 GB/s taken" in done["why_out_of_range"][0]
    assert done["duration_s_high"][0] > done["duration_s_high"][1]


@pytest.mark.parametrize(
    ("columns", "error", "text"),
    [
        ({"path": "floppy", "bytes": 1e9}, UnknownNameError, "floppy"),
        ({"path": "disk", "bytes": 1e9, "loader": "magic"}, UnknownNameError, "magic"),
        ({"path": "disk", "bytes": -1.0}, InputError, "bytes"),
        ({"path": "pinned", "bytes": 1e9, "link_bytes_per_s": 0.0}, InputError, "link_bytes_per_s"),
        ({"path": "disk", "bytes": 1e9, "gpu_count": np.inf}, InputError, "gpu_count"),
    ],
)
def test_bad_questions_are_refused_by_name(columns: dict[str, object], error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        published_loads().predict(_asked(**columns))


def test_loads_that_were_wakes_stand_for_no_others(dataset: pd.DataFrame) -> None:
    awake = PerformanceModel().fit(dataset)
    versions = dict.fromkeys(awake.state_.engine_versions, "0.33.0, sleep level 1")
    slept = PerformanceModel()._set(awake.state_.model_copy(update={"engine_versions": versions}))
    loads = awake.configurations("fake", DEVICE, "b", operation="load", gpu_layers=[0, 5, 11])
    own = awake.predict(loads)["duration_s_predicted"]
    assert not awake.predict(loads)["out_of_range"].any()
    for model, source in ((awake, "page-cache"), (slept, "sleep-1")):
        assert load_costs(model, loads, source)["duration_s_predicted"].equals(own)
    for model, source in ((slept, "page-cache"), (slept, "disk"), (slept, "sleep-2"), (awake, "sleep-1")):
        found = load_costs(model, loads, source)
        assert (found["duration_s_predicted"] != own).all()
        assert found["out_of_range"].all()
