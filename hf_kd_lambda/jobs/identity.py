"""Which settings and examples decide the result of a run."""

import hashlib

from datasets import Dataset

from hf_kd_lambda.utils.fingerprint import examples_digest


def digest(examples: Dataset) -> str:
    """Fingerprint of encoded examples, the same on every machine."""
    if "input_ids" not in examples.column_names:  # but images
        return examples_digest(examples, examples.column_names)[:16]
    sha = hashlib.sha256()
    for column in ("input_ids", "labels"):
        sha.update(repr(examples[column][:]).encode())
    return sha.hexdigest()[:16]


# What TrainingArguments holds that decides the weights which come out.
OPTIMISATION = [
    *("seed", "data_seed", "num_train_epochs", "max_steps", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "optim"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "lr_scheduler_kwargs", "max_grad_norm", "label_smoothing_factor"),
    *("neftune_noise_alpha", "optim_args", "dataloader_drop_last", "train_sampling_strategy"),
    *("load_best_model_at_end", "metric_for_best_model"),
]


# And with load_best_model_at_end.
EVALUATION = ["greater_is_better", "eval_strategy", "eval_steps", "save_strategy", "save_steps"]
