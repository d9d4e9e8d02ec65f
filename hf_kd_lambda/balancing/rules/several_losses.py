"""How several KD losses share the weight that λ gives to all of them, from the Gram matrix of all gradients."""

from typing import cast

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor


def equal_lengths(gram: Tensor, shares: Tensor) -> Tensor:
    """Weights with which the KD gradients are of lengths in the ratio of the shares, w_i ∝ s_i/|g_i|.

    What `norm_ratio` makes of task and KD gradient, among the KD gradients. Σ w_i·|g_i| is what it is with the shares
    for weights, so that λ, which weighs them all, keeps its size.

    Args:
        gram: `[1 + losses, 1 + losses]`, dot products of the gradients, the task's first.
        shares: `[losses]`, s.

    Returns:
        `[losses]`.
    """
    lengths = gram.diagonal()[1:].sqrt()
    return torch.dot(shares, lengths) / shares.sum() * shares / lengths


def min_norm(gram: Tensor) -> Tensor:
    """The KD gradients' weights in the shortest convex combination of all gradients, the task's among them.

    MGDA (Désidéri 2012; Sener & Koltun 2018, equation 3): min wᵀGw over w ≥ 0, Σw = 1. With G = AᵀA that is the
    non-negative least squares problem of [A; 1ᵀ]·u = [0; 1], solved for w up to a factor (Lawson & Hanson 1974,
    chapter 23). MGDA's weights of the task and of these in sum then are those of the shortest combination of all.

    Args:
        gram: as for `equal_lengths`.

    Returns:
        `[losses]`, 1 in sum; where the task gradient is the shortest by itself, those of the shortest combination of
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
