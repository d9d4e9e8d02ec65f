"""KD losses by their names in settings."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from hf_kd_lambda.losses.base import KDLoss
from hf_kd_lambda.losses.layer_losses import (
    PKD,
    AttentionKL,
    AttentionMaps,
    AttentionTransfer,
    EmbeddingMSE,
    FeatureMSE,
    HiddenCosine,
    HiddenMSE,
    Relations,
    ValueRelations,
)
from hf_kd_lambda.losses.logit_losses import DKD, JensenShannon, LogitMSE, ReverseKL, SoftTargets
from hf_kd_lambda.utils.names import check_known

KD_LOSSES: dict[str, type[KDLoss]] = {
    "soft_targets": SoftTargets,
    "reverse_kl": ReverseKL,
    "jensen_shannon": JensenShannon,
    "logit_mse": LogitMSE,
    "dkd": DKD,
    "embedding_mse": EmbeddingMSE,
    "hidden_mse": HiddenMSE,
    "hidden_cosine": HiddenCosine,
    "pkd": PKD,
    "attention_maps": AttentionMaps,
    "attention_kl": AttentionKL,
    "relations": Relations,
    "value_relations": ValueRelations,
    "feature_mse": FeatureMSE,
    "attention_transfer": AttentionTransfer,
}
OF_DISTRIBUTIONS = frozenset({"soft_targets", "reverse_kl", "jensen_shannon", "dkd"})
"""KD losses that compare distributions, so that they are undefined for regression (one output)."""


def make_kd_losses(settings: Mapping[str, Any]) -> dict[str, KDLoss]:
    """KD losses by their names, from the setting `kd_losses`.

    Args:
        settings: for each loss its weight, or its hyper-parameters including `weight`.

    Raises:
        ValueError: no loss is given, or a loss or hyper-parameter is unknown or out of range.
    """
    if not settings:
        raise ValueError("no loss is given: leave kd_losses out for soft targets.")
    return {name: _make(name, value) for name, value in settings.items()}


def _make(name: str, value: Any) -> KDLoss:
    check_known(name, KD_LOSSES, "KD loss")
    loss = KD_LOSSES[name]
    hyper = dict(value) if isinstance(value, Mapping) else {"weight": value}
    for key in hyper:
        check_known(key, [field.name for field in fields(loss)], f"setting of KD loss {name!r}:")
    try:
        return loss(**hyper)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from None
