"""What a preemption costs, part by part."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PreemptionCost:
    """What it costs to take a model off its device in the middle of a request and to bring it back.

    Attributes:
        kv_save_s: Saving the request's KV; 0 where the engine cannot.
        unload_s: Freeing the model.
        load_s: Loading it again.
        kv_restore_s: Restoring the KV, or processing the tokens again where the engine cannot.
        low_s: Lower end of the total's interval; the ends of the parts are added, so it is no less than 90 %.
        high_s: Upper end.
        out_of_range: Whether a part was asked for beyond its data.
    """

    kv_save_s: float
    unload_s: float
    load_s: float
    kv_restore_s: float
    low_s: float
    high_s: float
    out_of_range: bool

    @property
    def total_s(self) -> float:
        """Seconds in all."""
        return self.kv_save_s + self.unload_s + self.load_s + self.kv_restore_s

    @property
    def reload_share(self) -> float:
        """Share of the total that is loading weights."""
        return self.load_s / self.total_s if self.total_s else 0.0
