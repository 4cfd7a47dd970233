"""Training policies in the simulated world; needs the extra ``train`` (torch, stable-baselines3)."""
