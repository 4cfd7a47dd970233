"""benchmarks/published: rows of others' measurements, held to what a measurement can be."""

from __future__ import annotations

import csv
import importlib.util
import math
from pathlib import Path

import pytest

from shunter.catalog.devices import read_gpus
from shunter.profiling.dataset.reference import read_reference

FOLDER = Path(__file__).parents[2] / "benchmarks" / "published"
HEADROOM = 1.1
