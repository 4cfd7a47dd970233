"""Writes the performance model that shunter ships, fitted to the published measurements.

usage: python scripts/published_performance.py
"""

from __future__ import annotations

from pathlib import Path

from shunter.models.published.performance import FILE, fit_published

__all__ = ["PATH", "main"]

PATH = Path(__file__).resolve().parents[1] / "shunter" / "data" / FILE


def main() -> None:
    """Fits and writes it."""
    print(fit_published().save(PATH))


if __name__ == "__main__":
    main()
