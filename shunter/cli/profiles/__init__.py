"""Commands that measure, and what measures: checkpoints, profiles and datasets."""
