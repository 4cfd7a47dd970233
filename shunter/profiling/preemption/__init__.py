"""The seed paper's preemption protocol: ``plan``, run (``protocol``, ``cycle``), ``rows``, and its report."""
