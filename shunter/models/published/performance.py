"""The performance model that needs no profile: fitted to the published measurements, and shipped.

It knows two engines. Of vLLM decode steps of several requests on one GPU are published, by few sources; its
prefills, loads, unloads and memory rest on the priors, as below.

llama.cpp's published rows are decodes and prefills, each of one sequence. What they lack comes from physics
with its priors (``shunter.models.physics``): unloads, KV copies and memory from the priors alone, loads from
the priors after the one published reload whose device has a data sheet (transformers on an RTX 5000 Ada).
All configurations of these are ``out_of_range``, with intervals as wide as the priors leave them.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.resources import as_file, files
from itertools import islice, product
from pathlib import Path

import numpy as np
import pandas as pd

from shunter.catalog.gpus import catalog_gpus
from shunter.catalog.models import catalog_models
from shunter.models.configurations import complete
from shunter.models.fit.intervals import COVERAGE, LogErrors
from shunter.models.fit.physical import SharedPhysics
from shunter.models.fit.shared import CrossDeviceFit, term_values
from shunter.models.performance import PerformanceModel
from shunter.models.physics import PHYSICS, rated_configurations
from shunter.models.physics.features import TARGETS
from shunter.models.published.rows import catalog_facts, fitted_frame
from shunter.models.published.vllm_rows import vllm_frame
from shunter.models.state import FittedState
from shunter.profiling.dataset.fingerprint import digest

__all__ = [
    "ENGINE",
    "FILE",
    "PUBLISHED",
    "fit_published",
    "fit_vllm",
    "open_performance",
    "published_performance",
]

PUBLISHED = "published"
"""What users call it where a performance model is asked for."""
ENGINE = "llama-cpp"
FILE = "published_performance.json"
VLLM = "vllm"
_UNPUBLISHED = {t.name: t.operation for t in TARGETS.values() if t.operation not in ("prefill", "decode")}
_UNPUBLISHED_OF_VLLM = {
    **{n: operation for n, operation in _UNPUBLISHED.items() if not operation.startswith("kv")},
    "prefill_s": "prefill",
}
"""vLLM keeps no KV of a request that has to go, so there is nothing to copy."""
_DRAWS = 400
_TYPICAL_GPUS = 30
"""Rows of the catalogue, from the top, that the widths of what nobody published are of: more rows do not move
them."""
_WORDS = (
    "physics with priors alone, marked out of range",
    "physics with priors after one reload by transformers, marked out of range",
)
_FITTED_ENGINES = (ENGINE, "transformers")
"""Whose rows of ``fitted_frame`` it is fitted to: of vLLM that has nothing but loads."""


@cache
def published_performance() -> PerformanceModel:
    """The shipped model.

    Raises:
        VersionError: The installation mixes versions of shunter.
    """
    with as_file(files("shunter.data").joinpath(FILE)) as path:
        return PerformanceModel.load(path)


def open_performance(given: str | os.PathLike[str]) -> PerformanceModel:
    """The performance model that a user named: ``published``, or a folder or file that holds one.

    Raises:
        InputError: There is none.
        BrokenFileError: The file is truncated or no performance model.
        VersionError: It has another format version.
    """
    if str(given) == PUBLISHED and not Path(given).exists():
        return published_performance()
    return PerformanceModel.load(given)


def fit_published() -> PerformanceModel:
    """Fits it anew; takes some twenty seconds."""
    return _together(_fit_llama_cpp(), fit_vllm(vllm_frame()))


def fit_vllm(frame: pd.DataFrame) -> PerformanceModel:
    """Fits vLLM's decode steps; all else of it is from the priors.

    Args:
        frame: As from ``vllm_frame``.
    """
    return PerformanceModel().fit(frame)


def _together(model: PerformanceModel, vllm: PerformanceModel) -> PerformanceModel:
    """The first with vLLM's fits, and what they lack."""
    state, of_vllm = model.state_, vllm.state_
    reload = next(fit for fit in state.shared if fit.target == "load_s" and fit.engine != ENGINE)
    added = [_from_priors(state, target, reload, VLLM) for target in _UNPUBLISHED_OF_VLLM]
    notes = [
        f"{target} on {VLLM}: not measured; {_WORDS[target == 'load_s']}" for target in _UNPUBLISHED_OF_VLLM
    ]
    notes += [note for note in of_vllm.notes if note.startswith("decode_step_s")]
    return PerformanceModel()._set(
        state.model_copy(
            update={
                "data_fingerprint": digest([state.data_fingerprint, of_vllm.data_fingerprint]),
                "shared": (*state.shared, *of_vllm.shared, *added),
                "engine_versions": {**of_vllm.engine_versions, **state.engine_versions},
                "models": {**of_vllm.models, **state.models},
                "notes": (*state.notes, *notes),
            }
        )
    )


def _fit_llama_cpp() -> PerformanceModel:
    frame = fitted_frame()
    model = PerformanceModel().fit(frame[frame["engine"].isin(_FITTED_ENGINES)].reset_index(drop=True))
    newest = max(fit.years[1] for fit in model.state_.shared)
    # What is predicted is what someone would run now, not what most published rows are of.
    versions = {**model.state_.engine_versions, ENGINE: f"llama.cpp ({_month(newest)})"}
    state = model.state_.model_copy(update={"engine_versions": versions})
    reload = next(fit for fit in state.shared if fit.target == "load_s")
    added = [_from_priors(state, target, reload, ENGINE) for target in _UNPUBLISHED]
    notes = [note for note in state.notes if note.partition(":")[0] not in _UNPUBLISHED]
    for target in _UNPUBLISHED:
        notes.append(f"{target} on {ENGINE}: not measured; {_WORDS[target == 'load_s']}")
    update = {"shared": (*state.shared, *added), "notes": tuple(notes)}
    return PerformanceModel()._set(state.model_copy(update=update))


def _month(year: float) -> str:
    return f"{int(year)}-{int(12 * (year % 1)) + 1:02}"


def _from_priors(state: FittedState, target: str, reload: CrossDeviceFit, engine: str) -> CrossDeviceFit:
    """A fit without data; it names no GPU, as engines do these things on any of them."""
    terms = PHYSICS[target].terms
    half = _prior_half_width(state, target) / 2
    measured = reload.physics.factors if target == "load_s" else {}
    physics = SharedPhysics(
        target=target,
        factors={term.name: measured.get(term.name, term.factor) for term in terms},
        deviations={},
        versions={},
        corrections={},
    )
    return CrossDeviceFit(
        target=target,
        engine=engine,
        physics=physics,
        # Nothing was seen: that counts as one doubling out of range, which doubles the width.
        ranges={term.name: (0.0, 0.0) for term in terms},
        errors={"": LogErrors(cell=half, model=half, device=half)},
        devices=(),
        models=(),
        rows=0,
        cells=0,
    )


def _prior_half_width(state: FittedState, target: str) -> float:
    """Half width that 90 % of what the priors hold possible stays within, as a log ratio."""
    physics, rng = PHYSICS[target], np.random.default_rng(0)
    configurations = complete(_typical_configurations(TARGETS[target].operation), state)
    values = term_values(target, rated_configurations(configurations))
    terms = physics.terms
    centre = np.log([term.factor for term in terms])
    drawn = rng.normal(0.0, [term.spread for term in terms], (_DRAWS, len(terms)))
    drawn += rng.normal(0.0, physics.device_spread, (_DRAWS, 1)) * [term.by_device for term in terms]
    drawn += rng.normal(0.0, physics.version_spread, (_DRAWS, 1)) * [term.by_version for term in terms]
    # Stages add up: joining the terms of one by their sum too is near enough for a width.
    ratios = np.log(values @ np.exp(centre + drawn).T / (values @ np.exp(centre))[:, None])
    return float(np.quantile(np.abs(ratios), COVERAGE))


def _typical_configurations(operation: str) -> pd.DataFrame:
    rows = []
    for gpu, model, share in product(islice(catalog_gpus(), _TYPICAL_GPUS), catalog_models(), (0.5, 1.0)):
        facts = catalog_facts(model, "Q4_K_M")
        rows.append(
            {
                **facts,
                "engine": ENGINE,
                "device": gpu,
                "operation": operation,
                "gpu_layers": round(share * facts["total_layers"]),
                "tokens": 1024,
                "max_batch": 4,
                "max_context_tokens": 4096,
            }
        )
    return pd.DataFrame(rows)
