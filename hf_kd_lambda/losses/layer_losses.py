"""KD losses on intermediate outputs: hidden states, attention maps, token relations, feature maps."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_kd_lambda.losses.base import PROJECTED, KDLoss, LossInputs
from hf_kd_lambda.losses.functional import (
    attention_kl_loss,
    attention_map_loss,
    attention_transfer_loss,
    feature_mse_loss,
    hidden_cosine_loss,
    hidden_mse_loss,
    pkd_loss,
    relation_loss,
)
from hf_kd_lambda.losses.layer_map import layer_map

LayerMap = str | Mapping[int, int] | Sequence[Sequence[int]]


def _in_teachers_width(student: Mapping[str, Any]) -> Mapping[str, Any]:
    """The student's outputs, with hidden states projected to the teacher's width if the widths differ."""
    return {**student, "hidden_states": student.get(PROJECTED, student["hidden_states"])}


@dataclass(frozen=True)
class LayerLoss(KDLoss):
    """A loss averaged over pairs of a student layer and a teacher layer.

    Args:
        layers: which teacher layer each student layer learns from, see `layer_map`.
    """

    layers: LayerMap = "uniform"

    @abstractmethod
    def pair_loss(self, student: Any, teacher: Any, inputs: LossInputs) -> Tensor:
        """Loss of one layer pair, a scalar.

        Args:
            student: the student layer's output, of one kind listed in `needs`.
            teacher: the teacher layer's output of the same kind.
            inputs: the batch.

        Raises:
            ValueError: the two outputs cannot be compared.
        """

    def pairs(self, student: Mapping[str, Any], teacher: Mapping[str, Any]) -> list[tuple[int, int]]:
        return layer_map(self.layers, *(len(outputs[self.needs[0]]) for outputs in (student, teacher)))

    def __call__(self, inputs: LossInputs) -> Tensor:
        student, teacher = inputs.student, inputs.teacher.inner
        if self.projects:
            student = _in_teachers_width(student)
        losses = [
            self.pair_loss(student[name][s], teacher[name][t], inputs)
            for name in self.needs
            for s, t in self.pairs(student, teacher)
        ]
        return torch.stack(losses).mean()


@dataclass(frozen=True)
class HiddenLoss(LayerLoss):
    """A loss on hidden states; the student's are projected to the teacher's width if the widths differ."""

    needs: ClassVar[tuple[str, ...]] = ("hidden_states",)
    projects: ClassVar[bool] = True

    def pairs(self, student: Mapping[str, Any], teacher: Mapping[str, Any]) -> list[tuple[int, int]]:
        # hidden_states[0] is the embedding output, so layer i returns hidden_states[i + 1].
        counts = (len(outputs["hidden_states"]) - 1 for outputs in (student, teacher))
        return [(s + 1, t + 1) for s, t in layer_map(self.layers, *counts)]


def _token_arguments(
    student: Tensor, teacher: Tensor, inputs: LossInputs
) -> tuple[Tensor, Tensor, Tensor | int, Tensor | None]:
    """(mask, labels, num_items, weights) for a loss on tokens. Without a mask (vision transformers) all tokens count.

    Args:
        student, teacher: `[examples, length, ...]`.
        inputs: their batch.

    Raises:
        ValueError: the outputs are feature maps, or their positions are not those of the batch.
    """
    if 4 in (student.dim(), teacher.dim()):
        raise ValueError(
            "needs tokens, but student or teacher has feature maps: use feature_mse or attention_transfer."
        )
    mask, labels = inputs.attention_mask, inputs.labels
    if mask is None:
        mask = torch.ones(len(labels), student.shape[1], dtype=torch.bool, device=student.device)
    shapes = [" × ".join(map(str, tensor.shape[:2])) for tensor in (student, teacher, mask)]
    if len(set(shapes)) > 1:
        raise ValueError(
            f"compares positions one by one, but of examples × positions, the student gives {shapes[0]}, the teacher "
            f"{shapes[1]}, and the batch has {shapes[2]}: use losses of the logits, or two models of one architecture "
            "and input size that neither pool tokens nor attend within windows."
        )
    return mask, labels, inputs.num_items, inputs.weights


def _attention_arguments(
    student: Tensor, teacher: Tensor, inputs: LossInputs
) -> tuple[Tensor, Tensor, Tensor | int, Tensor | None]:
    """Like `_token_arguments`, for attention maps `[examples, heads, length, length]`."""
    _token_arguments(student[:, 0].mT, teacher[:, 0].mT, inputs)
    return _token_arguments(student[:, 0], teacher[:, 0], inputs)


def _map_arguments(student: Tensor, teacher: Tensor, inputs: LossInputs) -> tuple[Tensor, Tensor | int, Tensor | None]:
    """(labels, num_items, weights) for a loss on feature maps `[examples, channels, height, width]`.

    Raises:
        ValueError: the outputs of student or teacher are tokens.
    """
    if not student.dim() == teacher.dim() == 4:
        raise ValueError("needs feature maps, but student or teacher has tokens: use hidden_mse or pkd.")
    return inputs.labels, inputs.num_items, inputs.weights


@dataclass(frozen=True)
class HiddenMSE(HiddenLoss):
    """See `hidden_mse_loss`."""

    def pair_loss(self, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        return hidden_mse_loss(student, teacher, *_token_arguments(student, teacher, inputs))


@dataclass(frozen=True)
class HiddenCosine(HiddenLoss):
    """See `hidden_cosine_loss`."""

    def pair_loss(self, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        return hidden_cosine_loss(student, teacher, *_token_arguments(student, teacher, inputs))


@dataclass(frozen=True)
class PKD(HiddenLoss):
    """See `pkd_loss`."""

    def pair_loss(self, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        return pkd_loss(student, teacher, *_token_arguments(student, teacher, inputs))


@dataclass(frozen=True)
class EmbeddingMSE(KDLoss):
    """`hidden_mse` of the embedding outputs (TinyBERT, Jiao et al. 2020, equation 9)."""

    needs: ClassVar[tuple[str, ...]] = ("hidden_states",)
    projects: ClassVar[bool] = True

    def pairs(self, student: Mapping[str, Any], teacher: Mapping[str, Any]) -> list[tuple[int, int]]:
        return [(0, 0)]

    def __call__(self, inputs: LossInputs) -> Tensor:
        student, teacher = (
            _in_teachers_width(inputs.student)["hidden_states"][0],
            inputs.teacher.inner["hidden_states"][0],
        )
        return hidden_mse_loss(student, teacher, *_token_arguments(student, teacher, inputs))


@dataclass(frozen=True)
class AttentionMaps(LayerLoss):
    """See `attention_map_loss`."""

    needs: ClassVar[tuple[str, ...]] = ("attentions",)

    def pair_loss(self, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        return attention_map_loss(student, teacher, *_attention_arguments(student, teacher, inputs))


@dataclass(frozen=True)
class LastLayerLoss(LayerLoss):
    """A loss on the last layer of both models by default, as in MiniLM."""

    layers: LayerMap = "top"

    def pairs(self, student: Mapping[str, Any], teacher: Mapping[str, Any]) -> list[tuple[int, int]]:
        if self.layers == "top":
            return [(len(student[self.needs[0]]) - 1, len(teacher[self.needs[0]]) - 1)]
        return super().pairs(student, teacher)


@dataclass(frozen=True)
class AttentionKL(LastLayerLoss):
    """See `attention_kl_loss`."""

    needs: ClassVar[tuple[str, ...]] = ("attentions",)

    def pair_loss(self, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        return attention_kl_loss(student, teacher, *_attention_arguments(student, teacher, inputs))


@dataclass(frozen=True)
class Relations(LastLayerLoss):
    """KL(teacher ‖ student) of softmax(XXᵀ/√d), mean over X: the queries, keys and values of all tokens (MiniLMv2).

    Each of the three is a `relation_loss`.

    Args:
        relation_heads: number of relation heads, which must divide the widths of both models.

    Raises:
        ValueError: `relation_heads` is not positive.
    """

    needs: ClassVar[tuple[str, ...]] = ("query_vectors", "key_vectors", "value_vectors")
    relation_heads: int = 12

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.relation_heads < 1:
            raise ValueError(f"relation_heads={self.relation_heads} must be at least 1.")

    def pair_loss(self, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        mask, labels, num_items, weights = _token_arguments(student, teacher, inputs)
        return relation_loss(student, teacher, mask, labels, num_items, self.relation_heads, weights)


@dataclass(frozen=True)
class ValueRelations(Relations):
    """`relations` of the values only; together with `attention_kl` it is MiniLM."""

    needs: ClassVar[tuple[str, ...]] = ("value_vectors",)


@dataclass(frozen=True)
class FeatureMSE(HiddenLoss):
    """See `feature_mse_loss`."""

    def pair_loss(self, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        return feature_mse_loss(student, teacher, *_map_arguments(student, teacher, inputs))


@dataclass(frozen=True)
class AttentionTransfer(HiddenLoss):
    """See `attention_transfer_loss`."""

    projects: ClassVar[bool] = False  # it sums over channels

    def pair_loss(self, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        return attention_transfer_loss(student, teacher, *_map_arguments(student, teacher, inputs))
