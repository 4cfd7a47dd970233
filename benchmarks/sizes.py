"""Sizes that shunter computes of real architectures against published ones: parameters, weights and KV.

The published figures and where they are from stand in ``published_sizes.csv`` beside this file: counts of the
Hugging Face Hub, sizes that llama.cpp prints of real files, tables of papers. What shunter does not model it
must refuse by name; each of ``REFUSED`` is asked for.
"""

from __future__ import annotations

import csv
from pathlib import Path

from benchmarks.form import Row, at_least, at_most, main, reported
from shunter.catalog.models import known_models
from shunter.errors import InputError, UnknownNameError
from shunter.models.published.rows import catalog_facts

__all__ = ["run"]

PUBLISHED = Path(__file__).with_name("published_sizes.csv")
BAR = 0.01
LEAST_MODELS = 25
REFUSED = ("Gemma-3n-E4B", "Qwen3-Next-80B-A3B", "Qwen3.5-9B", "Nemotron-H-8B", "Jamba-v0.1", "DeepSeek-V3.2")


def computed(row: dict[str, str]) -> float:
    """A figure as shunter has it."""
    name, quantization, figure = row["model"], row["quantization"], row["figure"]
    spec = known_models()[name]
    if figure == "weight_bytes":
        return float(catalog_facts(name, quantization)["weight_bytes"])
    return float(spec.kv_bytes_per_token() if figure == "kv_bytes_per_token" else getattr(spec, figure))


def refuses(name: str) -> bool:
    """Whether a model is refused for what it has, not for being unknown."""
    try:
        catalog_facts(name, "Q4_K_M")
    except UnknownNameError:
        return False
    except InputError:
        return True
    return False


def run(quick: bool) -> list[Row]:
    """Compares all of them; a quick run is the whole one."""
    with PUBLISHED.open(encoding="utf-8") as file:
        published = list(csv.DictReader(file))
    rows: list[Row] = []
    worst: dict[str, float] = {}
    for row in published:
        error = computed(row) / float(row["published"]) - 1
        what = f"{row['figure']} of {' '.join((row['model'], row['quantization'])).strip()}: error"
        rows.append(reported(what, error, note=row["source"]))
        worst[row["figure"]] = max(worst.get(row["figure"], 0.0), abs(error))
    judged = [at_most(Row(f"worst error of {figure}", error), BAR) for figure, error in sorted(worst.items())]
    models = {row["model"] for row in published}
    judged.append(at_least(Row("models with a published figure", float(len(models)), "models"), LEAST_MODELS))
    refused = [name for name in REFUSED if refuses(name)]
    wanted = at_least(
        Row("refused by name", float(len(refused)), "models", note=", ".join(REFUSED)), len(REFUSED)
    )
    return [*judged, wanted, *rows]


if __name__ == "__main__":
    raise SystemExit(main("sizes", run, __doc__ or ""))
