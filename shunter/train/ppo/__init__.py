"""MaskablePPO by Stable-Baselines3: its environments, buffers and network. Needs the extra ``train``."""
