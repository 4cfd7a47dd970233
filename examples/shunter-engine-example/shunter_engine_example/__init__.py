"""An engine for shunter in a package of its own: what shunter must know of it before it starts one.

Install the package, and its name works wherever shunter takes an engine::

    pip install ./examples/shunter-engine-example
    shunter profile --engine metronome --device cpu:1-threads --model small-hf

shunter imports this file; only the worker process, perhaps with another interpreter (``--python``), imports
the engine's module. The package must be installed in both; shunter only in the first.
"""

from shunter.engines.registry import EngineEntry

__all__ = ["METRONOME"]

METRONOME = EngineEntry(
    module="shunter_engine_example.engine",
    extra=None,
    packages=("shunter-engine-example",),
    default_device="cpu",
    checkpoint_formats=("safetensors",),
    description="no model at all: every step takes the same time",
)
