"""The smoothness that a second-order rule for λ needs, estimated from the losses of consecutive steps.

A step θ ← θ − η d along d = w_task g_task + w_kd g_kd changes the losses by

    ΔL_i ≈ −η p_i + ½ β_i η² |d|²        p_task = w_task a + w_kd c        p_kd = w_task c + w_kd b

with |d|² = w_task p_task + w_kd p_kd. Summed over steps, this gives one equation for each β_i (ours; β is the
smoothness of the descent lemma, Nesterov 2004, lemma 1.2.3, measured along the steps instead of bounded over all
directions):

    β_i = 2 Σ (ΔL_i + η p_i) / Σ η²|d|²        s_i = β_i η
"""

import torch
from torch import Tensor

from hf_kd_lambda.gradients.gram import Gram


class Smoothness:
    """Estimates s_i = β_i·η of task and KD loss from the losses of consecutive steps.

    Consecutive losses come from different batches, and most of their difference is batch noise. So both sums run over
    many steps before they are divided; an average of ratios would have a heavy tail and a bias. The differences
    telescope: only the noise at the start and the end of the average remains. A single average would give the newest
    loss as much weight as all others together, so it is averaged twice. The sums contain the η of every step, because
    η varies over the run: a step with η = 0 adds only noise, and large steps, which show the curvature, count most.

    The estimate is the s with which the given Gram matrix predicts the mean change of the losses on the next batch. It
    is β·η as above if the gradients are those of the measured losses. But the gradient of a batch, g = ḡ + noise,
    predicts a decrease on its own batch that the next batch does not have. For steps along g_task, s_task is then
    βη + 2·(1 − |ḡ|²/a), close to 2 if noise dominates. With an unbiased Gram matrix it is βη·|d|²/|d̄|², including the
    curvature term of the noise. In both cases a rule should use the Gram matrix that was passed here. For AdamW, that
    is the one in the optimizer's metric, <g, P g>: the algebra is the same, and β is the smoothness in that metric.
    The Euclidean one cannot predict AdamW's steps with any s.

    The state consists of small tensors on the device of the gradients, so an update never synchronizes.

    Args:
        decay: decay of both averages, in [0, 1). Their memory is 2/(1 − decay) steps: 100 for 0.98.
        initial: `value` until as many steps as the averages remember were measured. At 0.5, a step along a loss's own
            gradient has half the optimal length.
        bounds: smallest and largest `value`. At s = 2 a step along a loss's own gradient gains nothing; training that
            makes progress does not stay above. Noise or negative curvature may give an s near or below 0, for which
            1/s would make λ explode.
    """

    def __init__(self, decay: float = 0.98, initial: float = 0.5, bounds: tuple[float, float] = (0.01, 2.0)) -> None:
        self.decay = decay
        self.initial = initial
        self.bounds = bounds
        self.pairs = torch.zeros(())
        self.learning_rate = torch.zeros(())
        # Rows: averages, and averages of the averages. Columns: ΔL_task + ηp_task, ΔL_kd + ηp_kd, η²|d|².
        self.averages = torch.zeros(2, 3)
        # From the last step: L_task − ηp_task, L_kd − ηp_kd (first-order prediction of the next losses), and η²|d|².
        self.pending = torch.full((3,), torch.nan)

    @property
    def value(self) -> Tensor:
        """`[2]`: (s_task, s_kd) at the last step's learning rate, within the bounds."""
        *excess, squared_step = self.averages[1]
        estimate = 2 * torch.stack(excess) / squared_step * self.learning_rate  # s_i = β_i η
        enough = (self.pairs >= round(2 / (1 - self.decay))) & (squared_step > 0)
        return torch.where(enough, estimate, self.initial).clamp(*self.bounds)

    def update(
        self, losses: Tensor, gram: Gram, weights: tuple[Tensor, Tensor], learning_rate: float | Tensor
    ) -> None:
        """Add one optimizer step. Non-finite values exclude the step and the pair of steps that ends with it.

        Call it at every step: the change of the losses between two calls must come from one step.

        Args:
            losses: `[2]`: (task_loss, kd_loss) of the step's batch, before the step, not averaged over other steps.
            gram: Gram matrix of the step's gradients, or the last measured one. Entries `[]` or `[groups]`.
            weights: (w_task, w_kd) of the combined gradient, same shape as the entries.
            learning_rate: η of the step, multiplied by the clipping factor of the combined gradient, and divided by
                1 − μ for SGD with momentum μ.
        """
        self.to(losses.device)
        losses = losses.detach().float()
        task_weight, kd_weight = weights
        task_gain = task_weight * gram.task + kd_weight * gram.dot  # p_task
        kd_gain = task_weight * gram.dot + kd_weight * gram.kd  # p_kd
        squared_norm = (task_weight * task_gain + kd_weight * kd_gain).sum()  # |d|²
        rate = torch.as_tensor(learning_rate, dtype=torch.float32, device=losses.device)  # η
        expected = losses - rate * torch.stack([task_gain.sum(), kd_gain.sum()])  # L_i − η p_i

        # Of the last step, whose change of the losses is known now: ΔL_i + η p_i, and η²|d|².
        measured = torch.cat([losses - self.pending[:2], self.pending[2:]])
        usable = measured.isfinite().all()
        first = torch.lerp(measured, self.averages[0], self.decay)
        second = torch.lerp(first, self.averages[1], self.decay)
        self.averages = torch.where(usable, torch.stack([first, second]), self.averages)
        self.pairs = self.pairs + usable
        self.pending = torch.cat([expected, (rate.square() * squared_norm).unsqueeze(0)])
        self.learning_rate = torch.where(rate.isfinite(), rate, self.learning_rate)

    def to(self, device: torch.device) -> None:
        """Move the state to `device`."""
        for name in ("pairs", "learning_rate", "averages", "pending"):
            setattr(self, name, getattr(self, name).to(device))

    def state_dict(self) -> dict[str, float | list[float] | list[list[float]] | None]:
        """The state as JSON numbers, which represent fp32 exactly."""
        return {
            "pairs": self.pairs.item(),
            "learning_rate": self.learning_rate.item(),
            "averages": self.averages.tolist(),
            "pending": self.pending.tolist() if self.pending.isfinite().all() else None,  # JSON has no NaN
        }

    def load_state_dict(self, state: dict[str, float | list[float] | list[list[float]] | None]) -> None:
        """Load the result of `state_dict`."""
        self.pairs = torch.tensor(state["pairs"])
        self.learning_rate = torch.tensor(state["learning_rate"])
        self.averages = torch.tensor(state["averages"])
        self.pending = torch.full((3,), torch.nan) if state["pending"] is None else torch.tensor(state["pending"])
