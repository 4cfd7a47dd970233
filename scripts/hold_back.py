"""Splits gathered rows of published measurements by their source: a tenth of the sources is held back.

A source is held back where the first 8 hexadecimal digits of the SHA-256 of its URL are a multiple of 10. The
split hangs on the URL alone, so a row that is gathered later joins its source's side, and nobody chooses.

usage: python scripts/hold_back.py GATHERED.csv [FOLDER]

GATHERED.csv has a column ``source_url``; ``llama_bench.csv`` and ``held_back.csv`` are written to FOLDER
(benchmarks/published where none is named).
"""

from __future__ import annotations

import csv
import hashlib
import io
import sys
from pathlib import Path

from shunter.errors import ShunterError
from shunter.files import write_text

__all__ = ["FOLDER", "is_held_back", "main", "split"]

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "published"


def is_held_back(source_url: str) -> bool:
    """Whether the rows of this source stay unread until the end."""
    return int(hashlib.sha256(source_url.encode()).hexdigest()[:8], 16) % 10 == 0


def split(rows: list[dict[str, str]]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The rows to work with and the rows held back, each in the order given."""
    return (
        [row for row in rows if not is_held_back(row["source_url"])],
        [row for row in rows if is_held_back(row["source_url"])],
    )


def main(arguments: list[str]) -> int:
    """Writes both files; 2 where the gathered file cannot be split."""
    if len(arguments) not in (1, 2):
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(arguments[1]) if len(arguments) == 2 else FOLDER
    try:
        with open(arguments[0], newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
        columns = list(reader.fieldnames or ())
        missing = next((i for i, row in enumerate(rows, 2) if not row.get("source_url")), None)
        if "source_url" not in columns or missing:
            raise ShunterError(
                f"{arguments[0]}: source_url must be on each row, it is not on line {missing or 1}"
            )
        for name, part in zip(("llama_bench.csv", "held_back.csv"), split(rows), strict=True):
            text = io.StringIO()
            writer = csv.DictWriter(text, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(part)
            path = write_text(folder / name, text.getvalue())
            print(f"{path}: {len(part)} rows of {len({row['source_url'] for row in part})} sources")
    except (OSError, UnicodeDecodeError, ShunterError) as error:
        print(f"hold_back: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
