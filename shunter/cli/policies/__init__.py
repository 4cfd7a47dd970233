"""Commands that make policies and look into them: train, tune, and all of ``shunter policy``."""
