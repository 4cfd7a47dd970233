"""benchmarks/published: rows of others' measurements, held to what a measurement can be."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from pathlib import Path

import pytest

from scripts import hold_back, recent_rates
from shunter.catalog.gpu_names import matching_gpus
from shunter.catalog.gpus import catalog_gpus
from shunter.profiling.dataset.reference import read_reference

FOLDER = hold_back.FOLDER
RATES = ("llama_bench.csv", "held_back.csv")
BANDWIDTH_HEADROOM = 1.1
"""Published bandwidths are rounded, and cards are sold overclocked."""

ROUNDING = 0.03
"""How far a vendor's rounded bandwidth of soldered memory may be from its bus."""

COLUMNS = {
    "rates": """
        row_id model params_b quant weight_bytes gpu gpu_count vram_gb cpu layers_total layers_gpu
        prompt_tokens decode_tokens context_tokens batch phase tokens_per_s software source_url notes
        published release backend host_memory flash_attention ngl threads n_batch n_ubatch depth_tokens
        spread model_as_given dense tool""",
    "hosts.csv": """
        cpu kind family channels channel_bits memory mega_transfers_per_s bandwidth_bytes_per_s
        source_url read notes""",
    "vllm.csv": """
        row_id engine release published model params_b dtype gpu gpu_count tensor_parallel input_tokens
        output_tokens requests request_rate concurrency requests_per_s output_tokens_per_s
        total_tokens_per_s duration_s mean_ttft_ms median_ttft_ms p99_ttft_ms mean_tpot_ms
        median_tpot_ms p99_tpot_ms source_url notes""",
    "loads.csv": """
        row_id engine release published model params_b dtype gpu gpu_count operation source_of_bytes
        bytes seconds storage freed_bytes source_url notes""",
}
NUMBERS = """
    params_b weight_bytes vram_gb layers_total context_tokens batch threads n_batch n_ubatch tokens_per_s
    channels channel_bits mega_transfers_per_s bandwidth_bytes_per_s tensor_parallel input_tokens
    output_tokens requests concurrency requests_per_s output_tokens_per_s total_tokens_per_s duration_s
    mean_ttft_ms median_ttft_ms p99_ttft_ms mean_tpot_ms median_tpot_ms p99_tpot_ms bytes seconds
    freed_bytes"""
MAY_BE_ZERO = """
    gpu_count layers_gpu ngl flash_attention prompt_tokens decode_tokens depth_tokens spread"""
FILES = (*RATES, "hosts.csv", "vllm.csv", "loads.csv")


def _rows(name: str) -> list[dict[str, str]]:
    with open(FOLDER / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", FILES)
def test_columns_are_known_figures_are_positive_each_row_has_a_source_and_stands_once(name: str) -> None:
    rows = _rows(name)
    columns = COLUMNS.get(name, COLUMNS["rates"]).split()
    may_be_zero = set(MAY_BE_ZERO.split())
    numbers = {*NUMBERS.split(), *may_be_zero}
    for row in rows:
        assert list(row) == columns
        assert row["source_url"].startswith("https://"), row
        for column in numbers.intersection(columns):
            if row[column]:
                value = float(row[column])
                assert math.isfinite(value), (column, row)
                assert value > 0 or (column in may_be_zero and value == 0), (column, row)
    twice = Counter(tuple(value for column, value in row.items() if column != "row_id") for row in rows)
    assert [row for row, count in twice.items() if count > 1] == []
    if "row_id" in columns:
        assert len({row["row_id"] for row in rows}) == len(rows)


@pytest.mark.parametrize("name", RATES)
def test_rates_are_of_one_phase_and_of_2024_or_later(name: str) -> None:
    for row in _rows(name):
        assert row["phase"] in ("prefill", "decode"), row
        assert row["published"] >= "2024", row
        tokens = row["prompt_tokens"] if row["phase"] == "prefill" else row["decode_tokens"]
        assert int(tokens) > 0, row
        assert float(row["tokens_per_s"]) > 0, row


def test_no_row_is_in_the_reference_data() -> None:
    reference = read_reference()
    known = set(zip(reference["source"], reference["device"], reference["tokens_per_s"], strict=True))
    figures = set(zip(reference["device"], reference["operation"], reference["tokens_per_s"], strict=True))
    for row in (*_rows("llama_bench.csv"), *_rows("held_back.csv")):
        rate = float(row["tokens_per_s"])
        assert (row["source_url"], row["gpu"], rate) not in known, row
        assert (row["gpu"], row["phase"], rate) not in figures, row


@pytest.mark.parametrize("name", RATES)
def test_no_decode_of_a_dense_model_reads_its_weights_faster_than_the_memory_can(name: str) -> None:
    """A batch reads the weights once for all its sequences, so its steps are what is bounded."""
    checked = 0
    for row in _rows(name):
        found = matching_gpus(row["gpu"], catalog_gpus())
        alone = row["gpu_count"] == "1" and "all layers on GPU" in row["notes"]
        if not (
            alone and found and row["dense"] == "yes" and row["weight_bytes"] and row["phase"] == "decode"
        ):
            continue
        bandwidth = max(catalog_gpus()[gpu].bandwidth_bytes_per_s for gpu in found)
        steps_per_s = float(row["tokens_per_s"]) / int(row["batch"])
        assert steps_per_s * int(row["weight_bytes"]) <= bandwidth * BANDWIDTH_HEADROOM, row
        checked += 1
    assert checked


def test_the_split_is_by_source_and_nobody_chose_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work, held = _rows("llama_bench.csv"), _rows("held_back.csv")
    assert hold_back.split(work + held) == (work, held)
    assert held
    gathered = tmp_path / "gathered.csv"
    gathered.write_text("row_id,source_url\na,https://a\nb,https://b\nc,https://a\n")
    assert hold_back.main([str(gathered), str(tmp_path)]) == 0
    parts = [(tmp_path / name).read_text().splitlines()[1:] for name in RATES]
    assert sorted([*parts[0], *parts[1]]) == ["a,https://a", "b,https://b", "c,https://a"]
    gathered.write_text("row_id,source_url\na,https://a\nb,\n")
    assert hold_back.main([str(gathered), str(tmp_path)]) == 2
    assert "source_url must be on each row, it is not on line 3" in capsys.readouterr().err


def test_a_hosts_bandwidth_is_what_its_channels_make() -> None:
    for row in _rows("hosts.csv"):
        bus_bytes = int(row["channels"] or 1) * int(row["channel_bits"]) / 8
        made = bus_bytes * float(row["mega_transfers_per_s"]) * 1e6
        tolerance = 0 if row["channels"] else ROUNDING
        assert abs(float(row["bandwidth_bytes_per_s"]) / made - 1) <= tolerance, row


def test_loads_say_what_was_done_and_where_the_bytes_came_from() -> None:
    sources = {"disk", "page cache", "pinned", "sleep 1", "sleep 2", ""}
    for row in _rows("loads.csv"):
        assert row["operation"] in ("load", "sleep", "wake"), row
        assert row["source_of_bytes"] in sources, row
        assert row["seconds"], row
    for row in _rows("vllm.csv"):
        assert row["output_tokens_per_s"], row
        assert row["concurrency"], row


def test_the_readme_counts_what_is_there() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in FILES:
        line = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        rows = _rows(name)
        counts = [int(number) for number in re.findall(r"\d+", line.split("|")[-2])]
        assert counts == [len(rows), len({row["source_url"] for row in rows})], name


def test_what_is_shipped_is_a_copy() -> None:
    data = FOLDER.parents[1] / "shunter" / "data"
    assert recent_rates.PACKED.read_bytes() == recent_rates.packed()
    for name in ("hosts.csv", "loads.csv", "vllm.csv"):
        assert (data / name).read_bytes() == (FOLDER / name).read_bytes()
