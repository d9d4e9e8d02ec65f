"""Several teachers as one: the mean of their logits."""

import inspect
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.trainer_utils import unwrap_peft_model

from hf_kd_lambda.models.protocol import SPAN_LOGITS, as_model_output, check_model
from hf_kd_lambda.utils.fingerprint import fingerprint, model_digest


class Ensemble(nn.Module):
    """Models that teach as one, whose logits are averaged. The rule `trust` weighs the members for each item.

    The mean of logits is the geometric mean of the distributions, one of the two means that Hinton et al. 2015
    (arXiv 1503.02531, section 1) name for the soft targets of an ensemble. It is taken because it commutes with the
    temperature, which the arithmetic mean of probabilities does not, and because it is the mean of a regression too.

    All members get the same batch, and each only the columns that its `forward` takes. An ensemble returns logits
    alone: KD losses that compare hidden states or attention maps need a single teacher.

    Args:
        members: teachers for the same labels, see `models.protocol`.
        weights: positive, one for each member; only their ratios matter. Default: equal.

    Raises:
        ValueError: there is no member, a member cannot teach, or the weights do not fit.
    """

    def __init__(self, members: Sequence[nn.Module], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        weights = [1.0] * len(members) if weights is None else [float(weight) for weight in weights]
        if not members:
            raise ValueError("Ensemble: there is no member: give at least one model.")
        if len(weights) != len(members) or not all(0 < weight < math.inf for weight in weights):
            raise ValueError(
                f"Ensemble: weights={weights} must be {len(members)} positive finite numbers, one for each member."
            )
        self.members = nn.ModuleList(check_model(member, "teacher") for member in members)
        self.weights = [weight / sum(weights) for weight in weights]
        # The forward of PEFT's wrappers passes on more than it names.
        plain = [unwrap_peft_model(member) for member in self.members]
        self._accepted = [set(inspect.signature(member.forward).parameters) for member in plain]
        names = sorted(set.union(*self._accepted) - {"args", "kwargs"})
        # What reads the inputs of a model off its signature reads those of all members.
        named: Any = partial(self.forward)
        named.__signature__ = inspect.Signature(
            [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in names]
        )
        self.forward = named  # type: ignore[method-assign]

    def forward(self, output_member_logits: bool = False, **inputs: Any) -> dict[str, Any]:
        """The mean of the members' logits, in fp32, and of their losses where all return one.

        Args:
            output_member_logits: whether to return `member_logits` too, a tuple of every member's logits in fp32.
            inputs: columns of a batch, by name.

        Raises:
            ValueError: members return logits of different shapes.
        """
        outputs = [
            as_model_output(member(**{name: inputs[name] for name in accepted & inputs.keys()}), member, "teacher")
            for member, accepted in zip(self.members, self._accepted, strict=True)
        ]
        spans = all(name in outputs[0] for name in SPAN_LOGITS)
        names = ("loss", *(SPAN_LOGITS if spans else ("logits",)))
        means: dict[str, Any] = {
            name: self._mean([output[name] for output in outputs])
            for name in names
            if all(output.get(name) is not None for output in outputs)
        }
        if output_member_logits:
            device = next(iter(means.values())).device
            means["member_logits"] = tuple(output.logits.to(device).float() for output in outputs)
        return means

    def _mean(self, tensors: list[Tensor]) -> Tensor:
        shapes = {tuple(tensor.shape) for tensor in tensors}
        if len(shapes) > 1:
            raise ValueError(
                f"Ensemble: members return logits of different shapes, {', '.join(map(str, sorted(shapes)))}: take "
                "teachers for the same labels."
            )
        first = tensors[0].device
        weighted = [weight * tensor.to(first).float() for weight, tensor in zip(self.weights, tensors, strict=True)]
        return torch.stack(weighted).sum(0)


def members_of(teacher: nn.Module) -> list[nn.Module]:
    """The members of an ensemble; another teacher alone."""
    return list(teacher.members) if isinstance(teacher, Ensemble) else [teacher]


def teacher_digest(teacher: nn.Module) -> str:
    """Fingerprint of a teacher; for an ensemble, that of its members and their weights.

    Raises:
        NoDigestError: see `model_digest`.
    """
    if type(teacher) is not Ensemble:  # the forward of a subclass may differ
        return model_digest(teacher)
    return fingerprint([*map(model_digest, teacher.members), repr(teacher.weights)])
