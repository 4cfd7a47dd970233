"""The model card: what a performance model was fitted to, how wrong it is, and where its limits are."""
