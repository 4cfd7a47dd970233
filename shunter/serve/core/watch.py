"""Who is told what the core does, as it does it: records and pages follow it so."""

from __future__ import annotations

from shunter.serve.core.effects import Decision


class Watch:
    """Is told what the core does; here nothing comes of that."""

    def decided(self, decision: Decision, device: int) -> None:
        """A device is about to do what was decided."""

    def began(self, device: int) -> None:
        """A device has done so, and may be at a load or an unload now; not told of decisions that repeat."""

    def over(self, device: int) -> None:
        """What a device was at has ended, well or not; nothing has come of that yet."""

    def lost(self, device: int, model: int, level: int, reason: str) -> None:
        """A device is about to lose a model, whose server has ended by itself."""
