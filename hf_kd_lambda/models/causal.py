"""Causal language models: position i predicts the label at i + 1.

Labels are shifted once, when a batch is prepared. Afterwards logits and labels are aligned, as for all other models,
and the logits over the vocabulary are neither sliced nor copied.
"""

from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.trainer_utils import unwrap_peft_model


def is_causal(model: nn.Module) -> bool:
    """Whether a model, or the base model of a `PeftModel`, predicts the next token."""
    names = [base.__name__ for base in type(unwrap_peft_model(model)).__mro__]
    return any(name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() or "ForCausalLM" in name for name in names)
