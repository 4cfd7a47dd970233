"""What the machine does while a run goes on, where the environment asks MLflow for it."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from shunter.tracking.store import talking

ASKED = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"


def is_monitored() -> bool:
    """Whether the environment asks for system metrics."""
    return os.environ.get(ASKED, "").lower() in ("true", "1")


def start_monitor(run_id: str, uri: str) -> Any:
    """Has MLflow log system metrics to a run from now on; None if nobody asked, or MLflow cannot."""
    if not is_monitored():
        return None
    # System metrics are never worth the work that they are of: whatever goes wrong with them is left.
    with suppress(Exception), talking(uri):
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=uri)
        monitor.start()
        return monitor
    return None


def stop_monitor(monitor: Any, uri: str) -> None:
    """Ends what ``start_monitor`` began."""
    if monitor is not None:
        with suppress(Exception), talking(uri):
            monitor.finish()
