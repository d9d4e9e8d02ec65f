"""How fast a step's curvature eats up its gain: the smoothness that a second-order rule for λ needs, from the losses.

A step θ ← θ − η d along d = w_T g_T + w_D g_D changes the losses by

    ΔL_i ≈ −η p_i + ½ β_i η² |d|²        p_T = w_T a + w_D c        p_D = w_T c + w_D b

with |d|² = w_T p_T + w_D p_D. Summed over steps, this is one equation for each β_i (ours; β is the smoothness of the
descent lemma, Nesterov 2004, lemma 1.2.3, measured along the steps taken instead of bounded over all directions):

    β_i = 2 Σ (ΔL_i + η p_i) / Σ η²|d|²        s_i = β_i η
"""

import torch
from torch import Tensor

from hf_kd_lambda.gradients.gram import Gram


class Smoothness:
    """Estimates s_i = β_i·η of task and KD loss from the losses of consecutive steps.

    Losses of consecutive steps are of different batches, and differ mostly by that. So both sums run over many steps
    before they are divided: a ratio of averages, since an average of ratios has a heavy tail and a bias. The
    differences telescope, so that what remains of the batches' noise is where the averaging begins and ends; smoothed
    once, the newest loss would still count as much as all others together, therefore it is smoothed twice. The η of
    each step is inside the sums, as it varies over the run: a step of η = 0 adds nothing to them but noise, and large
    steps, which show the curvature, count most.

    What is estimated is the s with which the Gram matrix given here predicts the change of the losses on the next
    batch, on average. That is β·η as above when the gradients are those of the losses measured. A batch's own
    gradient g = ḡ + noise promises a gain on its batch that the next one does not see: then s_T is, for steps along
    g_T, βη + 2·(1 − |ḡ|²/a), and close to 2 where noise dominates. With an unbiased Gram matrix it is βη·|d|²/|d̄|²,
    curvature that the noise adds included. Either way a rule should use the Gram matrix that was measured here.
    For AdamW that is the one in the optimizer's own metric, <g, P g>: the algebra is the same, with β the smoothness
    in that metric. The Euclidean one does not predict AdamW's steps, and no s makes it.

    All state is small tensors on the gradients' device, so that updating it waits for nothing.

    Args:
        decay: of both averages, in [0, 1). They remember 2/(1 − decay) steps: 0.98 remembers 100.
        initial: `value` until as many steps were measured as the averages remember. At 0.5, a step along a loss's own
            gradient is half as long as the best one.
        bounds: smallest and largest `value`. At s = 2 a step along a loss's own gradient gains nothing, and what
            trains at all does not stay above; near 0, and below it where noise or negative curvature leads, 1/s
            would let λ explode on what cannot be told from zero.
    """

    def __init__(self, decay: float = 0.98, initial: float = 0.5, bounds: tuple[float, float] = (0.01, 2.0)) -> None:
        self.decay = decay
        self.initial = initial
        self.bounds = bounds
        self.pairs = torch.zeros(())
        self.learning_rate = torch.zeros(())
        # Rows: averages, and averages of these. Columns: ΔL_T + ηp_T, ΔL_D + ηp_D, η²|d|².
        self.averages = torch.zeros(2, 3)
        # Of the last step: L_T − ηp_T, L_D − ηp_D (the losses that the first order expects next), and η²|d|².
        self.pending = torch.full((3,), torch.nan)

    @property
    def value(self) -> Tensor:
        """`(2,)`: (s_T, s_D) at the last step's learning rate, within the bounds."""
        *excess, squared_step = self.averages[1]
        estimate = 2 * torch.stack(excess) / squared_step * self.learning_rate
        enough = (self.pairs >= round(2 / (1 - self.decay))) & (squared_step > 0)
        return torch.where(enough, estimate, self.initial).clamp(*self.bounds)

    def update(
        self, losses: Tensor, gram: Gram, weights: tuple[Tensor, Tensor], learning_rate: float | Tensor
    ) -> None:
        """Take in one optimizer step. A step, and the pair before it, with anything that is not finite is left out.

        Call it at every step: the losses' change from one call to the next is taken for that of one step.

        Args:
            losses: `(2,)`: (task_loss, kd_loss) of the step's batch, before the step and not averaged over others.
            gram: of the step's gradients, or as last measured. Entries may be `(groups,)`, of groups of parameters.
            weights: (w_T, w_D) with which the gradients are combined, of the shape of the Gram's entries.
            learning_rate: η of the step, times the factor by which the combined gradient was clipped, if it was, and
                divided by 1 − μ for SGD with momentum μ.
        """
        self.to(losses.device)
        losses = losses.detach().float()
        task_weight, kd_weight = weights
        task_gain = task_weight * gram.task + kd_weight * gram.dot
        kd_gain = task_weight * gram.dot + kd_weight * gram.kd
        squared_norm = (task_weight * task_gain + kd_weight * kd_gain).sum()
        rate = torch.as_tensor(learning_rate, dtype=torch.float32, device=losses.device)
        expected = losses - rate * torch.stack([task_gain.sum(), kd_gain.sum()])

        measured = torch.cat([losses - self.pending[:2], self.pending[2:]])
        usable = measured.isfinite().all()
        first = torch.lerp(measured, self.averages[0], self.decay)
        second = torch.lerp(first, self.averages[1], self.decay)
        self.averages = torch.where(usable, torch.stack([first, second]), self.averages)
        self.pairs = self.pairs + usable
        self.pending = torch.cat([expected, (rate.square() * squared_norm).unsqueeze(0)])
        self.learning_rate = torch.where(rate.isfinite(), rate, self.learning_rate)

    def to(self, device: torch.device) -> None:
        """Move the state to the device of the gradients."""
        for name in ("pairs", "learning_rate", "averages", "pending"):
            setattr(self, name, getattr(self, name).to(device))

    def state_dict(self) -> dict[str, float | list[float] | list[list[float]] | None]:
        """The state as JSON numbers, which hold an fp32 exactly."""
        return {
            "pairs": self.pairs.item(),
            "learning_rate": self.learning_rate.item(),
            "averages": self.averages.tolist(),
            "pending": self.pending.tolist() if self.pending.isfinite().all() else None,  # JSON has no NaN
        }

    def load_state_dict(self, state: dict[str, float | list[float] | list[list[float]] | None]) -> None:
        """Take over what `state_dict` returned."""
        self.pairs = torch.tensor(state["pairs"])
        self.learning_rate = torch.tensor(state["learning_rate"])
        self.averages = torch.tensor(state["averages"])
        self.pending = torch.full((3,), torch.nan) if state["pending"] is None else torch.tensor(state["pending"])
