"""Closed-form terms of every target: what the data sheets say that an operation takes at least.

A term is a time (or a memory) at peak rates; what is calibrated is how many times as long it takes in fact,
one factor a term, shared by all devices of an engine. Each factor has a prior, so that what the data do not
show stays at what is known of such hardware. Terms of one stage hide behind each other, so that the
longest counts (a roofline with a rounded edge); stages follow one another.
"""

from __future__ import annotations

from collections.abc import Iterable

from shunter.models.physics import former
from shunter.models.physics.decode import DECODE
from shunter.models.physics.memory import DEVICE, HOST
from shunter.models.physics.prefill import PREFILL
from shunter.models.physics.rated import (
    EXTRA_COLUMNS,
    UBATCH_TOKENS,
    RatedConfigurations,
    kinds,
    rated_configurations,
)
from shunter.models.physics.swap import KV, LOAD, UNLOAD
from shunter.models.physics.terms import Stage, TargetPhysics, Term

__all__ = [
    "EXTRA_COLUMNS",
    "PHYSICS",
    "UBATCH_TOKENS",
    "RatedConfigurations",
    "Stage",
    "TargetPhysics",
    "Term",
    "kinds",
    "physics_with",
    "rated_configurations",
]

PHYSICS: dict[str, TargetPhysics] = {
    "decode_step_s": TargetPhysics(DECODE, 0.05, 0.1, kernel_spread=0.05, loose=("offloaded", "batched")),
    "prefill_s": TargetPhysics(
        *(PREFILL, 0.12, 0.15),
        generation_spread=0.15,
        own_spread=0.25,
        source_spread=0.1,
        library_spread=0.5,
        per_year=(-0.05, 0.1),
        release_in_all=True,
        loose=("several", "offloaded"),
    ),
    "load_s": TargetPhysics(LOAD, 0.5, 0.2),
    "unload_s": TargetPhysics(UNLOAD, 0.5, 0.2),
    "kv_save_s": TargetPhysics(KV, 0.3, 0.15),
    "kv_restore_s": TargetPhysics(KV, 0.3, 0.15),
    "device_bytes": TargetPhysics(DEVICE, 0.02, 0.05),
    "host_bytes": TargetPhysics(HOST, 0.02, 0.05),
}
"""Stages by target. Loads: the spread of device deviations is that of published load rates on like links,
which differ by a factor of several with pinning and the loader; other spreads are engineering judgement.
Spreads over models are of devices without data sheets, each by itself, beyond the error for held-out
configurations: in quiet own sweeps of three sizes of one architecture it was 0.07 or less (prefill, KV
copies), 0.03 for decode and none for loads; they are given about twice that and more, since architectures
differ by more. How far other sizes are from those seen widens intervals besides."""

_FORMER = {
    "decode_step_s": TargetPhysics(former.DECODE, 0.05, 0.1),
    "prefill_s": TargetPhysics(former.PREFILL, 0.2, 0.15),
}


def physics_with(target: str, names: Iterable[str]) -> TargetPhysics:
    """The physics of a target whose terms have these names: as it is, or as it was when a model was saved.

    Raises:
        KeyError: There is no such target.
        ValueError: Its terms have, and had, other names.
    """
    wanted = set(names)
    for physics in (PHYSICS[target], _FORMER.get(target, PHYSICS[target])):
        if {term.name for term in physics.terms} == wanted:
            return physics
    raise ValueError("its factors are not those of its target's terms")
