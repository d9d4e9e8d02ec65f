"""Causal language models, whose position i predicts the label at i + 1.

Labels are shifted once, where a batch is made. Then losses, votes and agreement find each position's target at that
position, as for any other model, and logits of the size of a vocabulary are neither sliced nor copied.
"""

from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.trainer_utils import unwrap_peft_model


def is_causal(model: nn.Module) -> bool:
    """Whether a model, or the base model of a `PeftModel`, predicts the next token."""
    names = [kind.__name__ for kind in type(unwrap_peft_model(model)).__mro__]
    return any(name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() or "ForCausalLM" in name for name in names)
