"""The seed paper's preemption protocol: its plan, for a sweep, and the report of the sweep's rows."""
