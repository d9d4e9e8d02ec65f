"""Causal language models, whose position i predicts the label at i + 1.

Labels are shifted, once, where a batch is made: then losses, votes and agreement find at each position what it is to
predict, as of any other model, and logits of the size of a vocabulary are neither cut nor copied.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.trainer_utils import unwrap_peft_model

from hf_kd_lambda.losses import next_labels

SHIFTED = "shift_labels"  # the name that transformers has for them, by which its Trainer counts the items of a step


def is_causal(model: nn.Module) -> bool:
    """Whether a model, or what PEFT has put adapters into, predicts the next token."""
    names = [kind.__name__ for kind in type(unwrap_peft_model(model)).__mro__]
    return any(name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() or "ForCausalLM" in name for name in names)


def targets(batch: Mapping[str, Any]) -> Tensor:
    """What each example or position of a batch is to be predicted as: its label, of a causal model the next one."""
    return batch[SHIFTED] if SHIFTED in batch else batch["labels"]


class ShiftedLabels:
    """Puts `shift_labels` beside the labels `[examples, length]` of a batch, unless its collator has.

    Args:
        collate: from examples to a batch.
    """

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate
        self.tokenizer = getattr(collate, "tokenizer", None)  # which the Trainer saves where it has none of its own

    def __call__(self, examples: list[Any]) -> dict[str, Any]:
        """The batch."""
        batch = dict(self.collate(examples))
        if "labels" in batch and SHIFTED not in batch:
            batch[SHIFTED] = next_labels(batch["labels"])
        return batch
