"""The page of an evaluation, section by section; ``report`` puts them together."""
