"""What clients may ask of models: the one list that the gateway passes on and the fake server answers."""

from __future__ import annotations

ENDPOINTS = {
    "/v1/chat/completions": "/v1/chat/completions",
    "/v1/completions": "/v1/completions",
    "/v1/embeddings": "/v1/embeddings",
    "/v1/responses": "/v1/responses",
    "/v1/messages": "/v1/messages",
    "/v1/messages/count_tokens": "/v1/messages/count_tokens",
    "/v1/rerank": "/v1/rerank",
    "/infill": "/infill",
    "/v1/infill": "/infill",
}
"""Paths that are passed on, and where to."""
