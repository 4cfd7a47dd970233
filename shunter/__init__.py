"""shunter: learned scheduling of several LLMs on shared, unequal GPUs.

The areas build on each other in one direction::

    catalog <- profiling <- models <- envs <- agents <- eval <- train <- cli
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
