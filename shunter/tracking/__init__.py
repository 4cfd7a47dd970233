"""MLflow: where the store is, runs of evaluations, and the registry of trained policies."""
