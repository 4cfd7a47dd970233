"""A real Ray cluster on this machine, with a raylet for each node; gone afterwards whatever happened."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

QUIET = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # every socket on the loopback address
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_worker_niceness": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class Nodes:
    """A cluster whose every node has one CPU; the head is there from the start."""

    def __init__(self, folder: str) -> None:
        from ray.cluster_utils import Cluster

        self._options = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "temp_dir": f"{folder}/ray"}
        head = {**self._options, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add(self) -> Any:
        """A node, once the cluster counts it and none that was killed."""
        node = self.cluster.add_node(**self._options)
        self.cluster.wait_for_nodes(timeout=60)
        return node

    def kill(self, node: Any) -> None:
        """Kills a node with all of its processes."""
        self.cluster.remove_node(node, allow_graceful=False)


@contextmanager
def ray_nodes() -> Iterator[Nodes]:
    patch = pytest.MonkeyPatch()
    for name, value in QUIET.items():
        patch.setenv(name, value)
    from ray._private import ray_constants

    # Ray has read its environment already if some other test imported it.
    patch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)
    # Unix sockets have short names, so not under pytest's folder.
    folder = tempfile.mkdtemp(prefix="shunter-ray-")
    patch.setenv("RAY_TMPDIR", folder)  # where it notes the newest cluster, in a folder that must exist
    os.mkdir(f"{folder}/ray")
    started = None
    try:
        started = Nodes(folder)
        yield started
    finally:
        mine = psutil.Process().children(recursive=True)
        if started is not None:
            started.cluster.shutdown()
        for process in mine:
            if _is_rays(process):
                process.kill()
        shutil.rmtree(folder)
        patch.undo()


def _is_rays(process: psutil.Process) -> bool:
    try:
        words = " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False
    return words.startswith("ray::") or "/ray/core/src/ray/" in words or "/ray/_private/" in words
