"""Run by vLLM's interpreter: what can only be seen, or only be caused, inside of it. Prints a line of JSON.

usage: inside.py BOOT_FILE CHECKPOINT
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import runpy
import sys
from typing import Any

REQUESTS = ["a", "b", "c", "d"]
STEPS = 60


class Inside:
    """The engine's modules, as a worker has them, and a plan for four requests of the contract's model."""

    def __init__(self, boot: str, checkpoint: str) -> None:
        namespace = runpy.run_path(boot, run_name="boot")
        namespace["register"](os.path.dirname(os.path.dirname(os.path.realpath(boot))))
        device = {"name": "cpu:1-threads", "kind": "cpu", "index": 0, "threads": 1, "memory_bytes": None}
        engines = namespace["PACKAGE"]
        self.engine = importlib.import_module(engines + ".vllm.start").create(device)
        self.base = importlib.import_module(engines + ".base")
        self.load = importlib.import_module(engines + ".vllm.load")
        self.model = importlib.import_module(engines + ".vllm.model")
        self.plan = importlib.import_module(engines + ".vllm.plan")
        self.checkpoint = checkpoint
        self.kv = self.plan.KvPlan(context_tokens=128, max_batch=4, block_tokens=32, bytes_per_token=6144)

    def build(self, **changes: Any) -> Any:
        arguments = self.model.engine_arguments(self.checkpoint, "float32", self.kv, **changes)
        return self.model.VllmModel(self.model.build(self.checkpoint, arguments), 512, 0)

    def pressed(self, blocks: int) -> dict[str, Any]:
        """Four requests that each come to need 4 blocks, where vLLM has this many (one is its own)."""
        model = self.build(blocks=blocks, disable_log_stats=False)
        found: dict[str, Any] = {"blocks": model.kv_blocks, "asked": self.kv.blocks, "steps": 0}
        try:
            self.plan.check_blocks(self.kv, *model.kv_blocks)
        except self.base.DeviceMemoryError as error:
            found["refusal"] = str(error)
        for number, request in enumerate(REQUESTS):
            model.prefill(request, [number + 1] * 60)
        try:
            for _ in range(STEPS):
                model.step(REQUESTS)
                found["steps"] += 1
        except self.base.EngineError as error:
            found["stopped"] = str(error)
            model.leave(REQUESTS[0])
            for _ in range(8):  # vLLM's own count rises when a preempted request is back
                model.llm.step()
        metrics = {metric.name: metric for metric in model.llm.get_metrics()}
        found["vllm_preemptions"] = int(metrics["vllm:num_preemptions"].value)
        found["preemptions"] = model.preemptions
        for request in REQUESTS:
            model.leave(request)
        found["preemptions_after_leaving"] = model.preemptions
        model.shutdown()
        return found

    def short_engine(self) -> dict[str, Any]:
        """The engine where vLLM has fewer KV blocks than it was asked for, first seen and then unseen."""
        found: dict[str, Any] = {}
        kept = self.load.engine_arguments, self.load.check_blocks
        self.load.engine_arguments = functools.partial(self.model.engine_arguments, blocks=10)
        sizes = {"context_tokens": self.kv.context_tokens, "max_batch": self.kv.max_batch}
        try:
            self.engine.load("short", self.checkpoint, None, **sizes)
        except self.base.DeviceMemoryError as error:
            found["refusal"] = str(error)
        self.load.check_blocks = lambda *_: None
        self.engine.load("short", self.checkpoint, None, **sizes)
        for number, request in enumerate(REQUESTS):
            self.engine.prefill("short", request, [number + 1] * 60)
        found["before"] = self.engine.memory().kv_preemptions
        try:
            self.engine.decode("short", dict.fromkeys(REQUESTS, STEPS), max_steps=STEPS)
        except self.base.EngineError as error:
            found["stopped"] = str(error)
        found["after"] = self.engine.memory().kv_preemptions
        self.engine.unload("short")
        found["unloaded"] = self.engine.memory().kv_preemptions
        self.load.engine_arguments, self.load.check_blocks = kept
        return found

    def offloaded(self) -> dict[str, Any]:
        """What becomes of a request to leave 10 MB of weights on the host."""
        asked_bytes = 10_000_000
        model = self.build(cpu_offload_gb=asked_bytes / 2**30)
        found: dict[str, Any] = {"bytes": model.offloaded_bytes}
        try:
            self.plan.check_offloaded(asked_bytes, model.offloaded_bytes)
        except self.base.UnsupportedLevelError as error:
            found["refusal"] = str(error)
        model.shutdown()
        return found

    def shared_prompt(self, prefix_caching: bool) -> dict[str, Any]:
        """The same prompt twice: its first tokens, and how many KV blocks both have."""
        model = self.build(enable_prefix_caching=prefix_caching)
        tokens = [7 * place % 512 for place in range(100)]
        first = [model.prefill("first", tokens), *model.step(["first"])]
        second = [model.prefill("second", tokens), *model.step(["second"])]
        scheduler = model.llm.engine_core.engine_core.scheduler
        blocks = [set(scheduler.kv_cache_manager.get_block_ids(name)[0]) for name in scheduler.requests]
        model.shutdown()
        return {"tokens": [first, second], "shared_blocks": len(blocks[0] & blocks[1])}


if __name__ == "__main__":
    inside = Inside(sys.argv[1], sys.argv[2])
    answer = {
        "enough": inside.pressed(inside.kv.blocks),
        "short": inside.pressed(10),
        "short_engine": inside.short_engine(),
        "offloaded": inside.offloaded(),
        "prefix_caching": inside.shared_prompt(True),
        "no_prefix_caching": inside.shared_prompt(False),
    }
    inside.engine.close()
    print(json.dumps(answer))
