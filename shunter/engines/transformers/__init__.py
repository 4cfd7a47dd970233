"""Hugging Face transformers on torch: residents, their KV caches, and memory that is really given back."""
