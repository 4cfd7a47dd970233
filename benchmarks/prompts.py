"""What people ask a small chat model, made of templates: short questions, tasks, and passages to work on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

__all__ = ["prompts"]

_SUBJECTS = (
    "photosynthesis", "the French Revolution", "compound interest", "black holes", "sourdough bread",
    "the water cycle", "chess openings", "vaccines", "inflation", "the Silk Road", "earthquakes", "jazz",
    "binary search", "bee colonies", "the human heart", "solar panels", "haiku", "tides", "glaciers",
    "public libraries", "marathon training", "the printing press", "magnets", "coral reefs",
)  # fmt: skip

_TASKS = (
    "What is {}?",
    "Explain {} to a child of eight.",
    "Give three facts about {}.",
    "Write a short poem about {}.",
    "Why does {} matter? Answer in one sentence.",
    "List the steps that somebody who wants to learn about {} should take, with a sentence for each.",
    "Write an e-mail to a colleague that invites them to a talk on {}.",
    "Name one word that goes with {}.",
    "Is this true or false, and why: nobody understands {}.",
    "Write a story of two paragraphs in which {} plays a part.",
)

_ON_PASSAGES = (
    "Summarise this in one sentence:\n\n{}",
    "Which three words are the most important here?\n\n{}",
    "Rewrite this for somebody who is new to it:\n\n{}",
    "What question does this text answer?\n\n{}",
)

_PASSAGE_SHARE = 0.3
_LONGEST_WORDS = 120


def prompts(seed: int, count: int) -> list[str]:
    """So many prompts, drawn with a seed; passages are paragraphs of this project's own pages."""
    rng, passages = np.random.default_rng(seed), _passages()
    found = []
    for _ in range(count):
        on_passage = rng.random() < _PASSAGE_SHARE
        texts, about = (_ON_PASSAGES, passages) if on_passage else (_TASKS, _SUBJECTS)
        found.append(texts[rng.integers(len(texts))].format(about[rng.integers(len(about))]))
    return found


def _passages() -> tuple[str, ...]:
    pages = sorted((Path(__file__).parents[1] / "docs").glob("*.md"))
    paragraphs = [part for page in pages for part in page.read_text(encoding="utf-8").split("\n\n")]
    plain = [" ".join(part.split()) for part in paragraphs if part[:1].isalpha() and "<!--" not in part]
    return tuple(part for part in plain if 30 <= len(part.split()) <= _LONGEST_WORDS)
