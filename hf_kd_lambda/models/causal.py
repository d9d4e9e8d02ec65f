"""Causal language models, whose position i predicts the label at i + 1.

Labels are shifted, once, where a batch is made: then losses, votes and agreement find at each position what it is to
predict, as of any other model, and logits of the size of a vocabulary are neither cut nor copied.
"""

from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.trainer_utils import unwrap_peft_model


def is_causal(model: nn.Module) -> bool:
    """Whether a model, or what PEFT has put adapters into, predicts the next token."""
    names = [kind.__name__ for kind in type(unwrap_peft_model(model)).__mro__]
    return any(name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() or "ForCausalLM" in name for name in names)
