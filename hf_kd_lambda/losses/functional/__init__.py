"""The task loss and the KD losses, as sums over items divided by a given number of items.

An item is an example or a position whose label is not -100. All losses use the same divisor, so λ means the same for
every split of a batch into micro-batches and ranks. Losses on positions that are not items themselves, such as hidden
states, are averaged over the positions of an example and weighted by its number of items.

All losses are pure functions of tensors and return scalars in fp32. The teacher's tensors are detached.
"""

from hf_kd_lambda.losses.functional.attention import attention_kl_loss, attention_map_loss
from hf_kd_lambda.losses.functional.chunked import sum_over_chunks, token_top_kl_loss
from hf_kd_lambda.losses.functional.feature_maps import attention_transfer_loss, feature_mse_loss
from hf_kd_lambda.losses.functional.hidden import hidden_cosine_loss, hidden_mse_loss, pkd_loss
from hf_kd_lambda.losses.functional.items import IGNORED, count_items
from hf_kd_lambda.losses.functional.labels import next_labels
from hf_kd_lambda.losses.functional.logits import (
    dkd_loss,
    jensen_shannon_loss,
    logit_mse_loss,
    reverse_kl_loss,
    soft_target_loss,
)
from hf_kd_lambda.losses.functional.relations import relation_loss
from hf_kd_lambda.losses.functional.task import task_loss

__all__ = [
    "IGNORED",
    "attention_kl_loss",
    "attention_map_loss",
    "attention_transfer_loss",
    "count_items",
    "dkd_loss",
    "feature_mse_loss",
    "hidden_cosine_loss",
    "hidden_mse_loss",
    "jensen_shannon_loss",
    "logit_mse_loss",
    "next_labels",
    "pkd_loss",
    "relation_loss",
    "reverse_kl_loss",
    "soft_target_loss",
    "sum_over_chunks",
    "task_loss",
    "token_top_kl_loss",
]
