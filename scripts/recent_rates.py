"""Packs benchmarks/published/llama_bench.csv: the published rates of 2025 and 2026 that shunter ships.

usage: python scripts/recent_rates.py
"""

from __future__ import annotations

import gzip
from pathlib import Path

__all__ = ["PACKED", "SOURCE", "packed"]

_ROOT = Path(__file__).resolve().parents[1]
SOURCE = _ROOT / "benchmarks" / "published" / "llama_bench.csv"
PACKED = _ROOT / "shunter" / "data" / "throughput_recent.csv.gz"


def packed() -> bytes:
    """The table, gzipped; the same bytes each time."""
    return gzip.compress(SOURCE.read_bytes(), mtime=0)


if __name__ == "__main__":
    PACKED.write_bytes(packed())
