"""The card and the validation that it shows, on few rows."""

from collections import Counter
from dataclasses import replace

import pandas as pd
import pytest

from benchmarks.robust_names import read_markdown
from shunter.models import PerformanceModel
from shunter.models.card.card import write_card
from shunter.models.validation.assessment import assess
from shunter.models.validation.baselines import PREDICTORS
from tests.models.conftest import DEVICE


@pytest.fixture(scope="module")
def few(dataset):
    rows = dataset[
        dataset["operation"].isin(["decode", "load", "unload"]) & dataset["model"].isin(["a", "b"])
    ]
    return rows[rows["gpu_layers"].isin([0, 7, 11])].reset_index(drop=True)


@pytest.fixture(scope="module")
def validation(few):
    asked = {name: PREDICTORS[name] for name in ("shunter", "physics alone")}
    seen = Counter()
    found = assess(few, asked, report=lambda text, done, total: seen.update([text.partition(":")[0]]))
    assert seen["shunter"] == seen["physics alone"] > 5
    return found


def test_both_are_scored_on_the_same_rows_of_every_split(validation):
    scored = {
        name: {(s.split, s.target): s.rows for s in validation.scores if s.predictor == name}
        for name in ("shunter", "physics alone")
    }
    assert scored["shunter"] == scored["physics alone"]
    assert {split for split, _ in scored["shunter"]} >= {
        "random cells",
        "leave one model out",
        "larger batch",
    }
    assert set(validation.impossible) == {"leave one device out", "leave one engine out"}


def test_exact_physics_leaves_little_error_where_it_was_seen(validation):
    for name in ("shunter", "physics alone"):
        assert validation.of(name, "random cells", "load_s").mape < 0.05
        assert validation.of(name, "random cells", "decode_step_s").mape < 0.15
    kept = validation.held_out
    inside = kept[(kept["target"] == "load_s") & (kept["split"] == "random cells")]
    assert (inside["low"] <= inside["predicted"]).all()


def test_the_card_shows_parameters_and_what_could_not_be_tested(few, validation, tmp_path):
    model = PerformanceModel().fit(few)
    paths = write_card(model, few, validation, model.save(tmp_path))
    assert sorted(p.name for p in paths) == ["card.html", "card.md", "validation.json"]
    text = paths[0].read_text()
    assert "leave one device out: not tested, the dataset has one device only" in text
    assert "## Calibrated parameters" in text
    for line in ("weight_bytes_device", "read_bytes_host"):
        assert line in text


def test_a_card_of_one_model_and_a_row_per_configuration_is_still_a_card(dataset, tmp_path):
    one = dataset[(dataset["model"] == "b") & (dataset["batch"] == 1) & (dataset["operation"] == "decode")]
    one = one.drop_duplicates("cell_id").reset_index(drop=True)
    validation = assess(one, {"shunter": PREDICTORS["shunter"]})
    model = PerformanceModel().fit(one)
    text = write_card(model, one, validation, model.save(tmp_path))[0].read_text()
    assert "leave one model out: not tested" in text
    assert "larger batch: not tested" in text
    assert isinstance(validation.held_out, pd.DataFrame)


def test_the_title_names_what_it_is_of_and_the_first_line_how_wrong_it_is(few, validation, tmp_path):
    model = PerformanceModel().fit(few)
    text = write_card(model, few, validation, model.save(tmp_path))[0].read_text()
    title, first, *_ = text.split("\n\n")
    assert model.state_.data_fingerprint not in title
    for name in (*few["engine"].unique(), *few["device"].unique(), f"{len(few)} rows"):
        assert name in title
    assert first.startswith("Mean error on held-out rows (random cells: ")
    error = validation.of("shunter", "random cells", "load_s").mape
    assert f"load_s {100 * error:.1f} %" in first


def test_names_from_anywhere_are_text_in_the_card(few, validation, tmp_path):
    read = []
    for name in ("plain", "` *a* <b> [c](javascript:d) | &lt; `"):
        rows = few.assign(model=few["model"].replace("a", name), engine=name, device=name)
        held = validation.held_out.replace({"a": name, DEVICE: name})
        model = PerformanceModel().fit(rows)
        paths = write_card(model, rows, replace(validation, held_out=held), model.save(tmp_path / name[:5]))
        read.append(read_markdown(paths[0].read_text()))
    (plain, lines), (elements, found) = read
    assert elements == plain
    assert sum(name in line for line in found) == sum("plain" in line for line in lines) > 5
