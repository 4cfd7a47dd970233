"""What was measured and simulated, as files of other programs: llama-swap, vLLM's sleep mode, Perfetto."""
