"""Load a classifier from a checkpoint, with its outputs in the order of the data's labels."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import LogRecord
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging

from hf_kd_lambda.models.labels import OtherLabelsError, align_labels, check_one_head, output_layer, set_labels
from hf_kd_lambda.models.size import check_depth, check_size

logger = logging.get_logger(__name__)


def load_classifier(
    checkpoint: str,
    label_names: list[str] | None,
    trust_remote_code: bool = False,
    new_head: bool = False,
    auto_class: Any = AutoModelForSequenceClassification,
    problem_type: str | None = None,
    dtype: torch.dtype | str = torch.float32,
    require_head: bool = False,
    whose: str = "data",
) -> PreTrainedModel:
    """Load a classifier whose outputs are in the data's order.

    Args:
        checkpoint: Hub id or folder.
        label_names: Names of the classes in the data's order, or None for regression.
        trust_remote_code: Run modelling code from the checkpoint's repository.
        new_head: Use a new output layer, for a model that will be fine-tuned. Otherwise use the checkpoint's own; a
            checkpoint without one, or with one for other labels, gets a new one, with a warning.
        auto_class: Transformers' auto class for the task.
        problem_type: `MULTI_LABEL` for several labels per example; None for one class, or a number.
        dtype: type of the weights; `auto` for the checkpoint's.
        require_head: Refuse a checkpoint without an output layer of its own for these labels: it would only guess.
        whose: see `align_labels`.

    Raises:
        OSError: the checkpoint does not exist.
        ValueError: `require_head` is set and there is none; or weights below the head are missing.
    """
    try:
        config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=trust_remote_code)
    except OSError as error:
        raise OSError(
            f"cannot load {checkpoint!r}: there is no such folder, and no such model was found on the Hub: {error}"
        ) from error
    check_depth(config)
    if new_head:
        set_labels(config, label_names, problem_type)
        check_size(config, auto_class, trust_remote_code=trust_remote_code)  # missing weights would be made
    with _without_load_report():
        model, info = auto_class.from_pretrained(
            checkpoint,
            config=config,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            ignore_mismatched_sizes=new_head,
            output_loading_info=True,
        )
    name, head = output_layer(model)
    _check_complete(checkpoint, model, info, new_head or f"{name}.weight" in info["missing_keys"])
    if new_head:
        check_one_head(model)
        head.reset_parameters()
        return model
    if f"{name}.weight" in info["missing_keys"]:
        if require_head:
            raise ValueError(
                f"{checkpoint!r} has no trained output layer, so that it would only guess: choose a checkpoint that "
                "was trained for these labels, or fine-tune it first, in a job with teacher_finetune: true."
            )
        logger.warning("%r has no trained classification head: the student gets a new one.", checkpoint)
        return load_classifier(checkpoint, label_names, trust_remote_code, True, auto_class, problem_type, dtype)
    try:
        align_labels(model, label_names, problem_type, whose)
    except OtherLabelsError as error:
        if require_head:
            raise
        logger.warning("%s: the student gets a new classification head for the labels of the data.", error.difference)
        return load_classifier(checkpoint, label_names, trust_remote_code, True, auto_class, problem_type, dtype)
    return model


@contextmanager
def _without_load_report() -> Iterator[None]:
    """Without Transformers' table of missing weights, since `_check_complete` reports those that matter."""
    loading = logging.get_logger("transformers.modeling_utils")
    loading.addFilter(_is_no_load_report)
    try:
        yield
    finally:
        loading.removeFilter(_is_no_load_report)


def _is_no_load_report(record: LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()


def _check_complete(checkpoint: str, model: PreTrainedModel, info: Mapping[str, Any], new_head: bool) -> None:
    """Check that a checkpoint has all weights of the model, except those of a new head.

    Raises:
        ValueError: weights are missing; the message names the first.
    """
    parts = dict(model.named_children())
    # Image classifiers of CLIP or SigLIP have their encoder under another name than the prefix. Layers tell it.
    encoders = [
        name for name, part in parts.items() if any(isinstance(found, nn.ModuleList) for found in part.modules())
    ]
    encoder = tuple(f"{name}." for name in (model.base_model_prefix, *encoders))
    random = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    # A pooler counts as part of the head: checkpoints without a head often lack it.
    of_head = {key for key in random if new_head and (not key.startswith(encoder) or ".pooler." in key)}
    if missing := sorted(random - of_head):
        raise ValueError(
            f"{checkpoint!r} is incomplete: {len(missing)} parameters of its config.json, such as {missing[0]}, are "
            "missing in its weights or have another shape, and would be random. Use weights and config.json of the "
            "same model."
        )
