"""Weights of several KD losses in their sum, from the Gram matrix of all gradients."""

from typing import cast

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor


def equal_lengths(gram: Tensor, shares: Tensor) -> Tensor:
    """Weights for which the lengths of the weighted KD gradients are in the ratio of the shares, w_i ∝ s_i/|g_i|.

    The rule `norm_ratio`, applied among the KD gradients. Σ w_i·|g_i| is the same as with the shares as weights, so
    the scale of λ does not change.

    Args:
        gram: `[1 + losses, 1 + losses]`, dot products of the gradients, the task gradient first.
        shares: s, `[losses]`.

    Returns:
        w, `[losses]`.
    """
    lengths = gram.diagonal()[1:].sqrt()
    return torch.dot(shares, lengths) / shares.sum() * shares / lengths


def min_norm(gram: Tensor) -> Tensor:
    """Weights of the KD gradients in the shortest convex combination of all gradients, including the task gradient.

    MGDA (Désidéri 2012; Sener & Koltun 2018, equation 3): min wᵀGw over w ≥ 0, Σw = 1. With G = AᵀA it is the
    non-negative least squares problem [A; 1ᵀ]·u = [0; 1], where w ∝ u (Lawson & Hanson 1974, chapter 23). MGDA of the
    task gradient and the KD gradient merged with these weights then gives the shortest combination of all.

    Args:
        gram: as for `equal_lengths`.

    Returns:
        `[losses]`, with sum 1. If the task gradient alone is the shortest, the weights of the shortest combination of
        the KD gradients.
    """
    matrix = gram.double().cpu().numpy()
    weights = _shortest(matrix)[1:]
    if not weights.any():
        weights = _shortest(matrix[1:, 1:])
    return torch.as_tensor(weights / weights.sum()).to(gram)


def _shortest(gram: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(gram / max(gram.diagonal().max(), np.finfo(float).tiny))
    root = np.sqrt(values.clip(min=0.0))[:, None] * vectors.T
    solution, _ = nnls(np.vstack([root, np.ones(len(gram))]), np.append(np.zeros(len(gram)), 1.0))
    return cast(np.ndarray, solution / solution.sum())
