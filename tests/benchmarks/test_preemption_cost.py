"""benchmarks.preemption_cost: no fold sees what it predicts."""

from __future__ import annotations

import numpy as np

from benchmarks.preemption_cost import held_out_cells, held_out_loads
from shunter.models.published.load_rows import load_rows


def test_each_cell_is_predicted_once_by_the_other_gpu_alone() -> None:
    done = held_out_cells()
    assert done["cell"].is_unique
    assert len(done) == 6
    # A fit that had seen them would be nearer: it has a factor for each GPU.
    assert (done["predicted_s"] / done["true_s"] - 1).abs().min() > 0.02


def test_a_held_out_source_has_no_part_in_its_own_prediction() -> None:
    rows = load_rows()
    source = rows["source_url"] == rows["source_url"].iloc[0]
    longer = rows.assign(duration_s=np.where(source, 100 * rows["duration_s"], rows["duration_s"]))
    first, second = (held_out_loads("source", some) for some in (rows, longer))
    assert sorted(first["row_id"]) == sorted(rows["row_id"])
    own = source[first.index]
    np.testing.assert_allclose(first.loc[own, "predicted_s"], second.loc[own, "predicted_s"])
    assert not np.allclose(first.loc[~own, "predicted_s"], second.loc[~own, "predicted_s"])
