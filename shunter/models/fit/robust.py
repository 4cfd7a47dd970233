"""The loss of fits that a few stalls must not move: squares of small residuals, large ones linearly."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["pseudo_huber"]

Array = npt.NDArray[np.float64]


def pseudo_huber(residuals: Array, scale: float = 1.0) -> tuple[Array, Array]:
    """Residuals whose squares are quadratic near 0 and linear beyond a scale, for least squares.

    Args:
        residuals: Residuals in any unit; shape (n_rows,).
        scale: Where the square turns linear, in the residuals' unit.

    Returns:
        The softened residuals, and their derivatives by the residuals; both (n_rows,).

    Source: the pseudo-Huber loss 2 s^2 (sqrt(1 + (r / s)^2) - 1); Charbonnier et al., Two Deterministic
    Half-Quadratic Regularization Algorithms for Computed Imaging, 1994.
    """
    root = np.sqrt(1 + (residuals / scale) ** 2)
    # Not sqrt(2 (root - 1)): near 0 that has no digits left.
    return residuals * np.sqrt(2 / (1 + root)), np.sqrt((1 + root) / 2) / root
