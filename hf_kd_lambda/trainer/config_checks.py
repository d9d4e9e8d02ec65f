"""Checks of the settings: ranges and combinations.

`config` is a `DistillationConfig`, which calls these functions when it is made.
"""

from collections.abc import Mapping
from typing import Any, get_args

from transformers.utils import is_liger_kernel_available

from hf_kd_lambda.balancing.rules.registry import RULES
from hf_kd_lambda.losses.logit_losses import LogitLoss


def check_ranges(config: Any) -> None:
    """Refuse numbers whose range depends on another setting; the table of the others is in `argument_ranges`.

    Raises:
        ValueError: names the setting, its value and the range.
    """
    if config.lambda_min > config.lambda_max:
        raise ValueError(f"lambda_min={config.lambda_min} must not exceed lambda_max={config.lambda_max}.")


def check_choices(config: Any, choices: Mapping[str, Any]) -> None:
    """Refuse unknown names in a setting.

    Args:
        config: see above.
        choices: for each setting the `Literal` of its values.

    Raises:
        ValueError: names the setting, its value and the choices.
    """
    for name, literal in choices.items():
        admitted = get_args(literal)
        if getattr(config, name) not in admitted:
            raise ValueError(f"{name}={getattr(config, name)!r} is not one of {', '.join(map(str, admitted))}.")


def check_precision(config: Any) -> None:
    """Refuse two settings that name different precisions.

    Raises:
        ValueError: names both settings and the fix.
    """
    for name in ("bf16", "fp16"):
        if getattr(config, name) and config.precision not in ("auto", name):
            raise ValueError(
                f"precision={config.precision!r}, {name}=True: they differ: leave {name} out, or set it to False in a "
                "copy of a config."
            )


def check_rule(config: Any) -> None:
    """Refuse hyper-parameters that the rule does not have, and settings that exclude the rule.

    Raises:
        ValueError: names the settings and the fix.
    """
    for name, fix in (("kappa", "lambda_kappa"), ("kd_weight", "kd_weight itself"), ("form", "lambda_form")):
        if name in (config.lambda_rule_kwargs or {}):
            raise ValueError(f"lambda_rule_kwargs={config.lambda_rule_kwargs}: {name} is no part of it, set {fix}.")
    try:
        rule = config.rule
    except ValueError as error:
        settings = f"lambda_rule={config.lambda_rule!r}"
        settings += f", lambda_rule_kwargs={config.lambda_rule_kwargs}" if config.lambda_rule_kwargs else ""
        raise ValueError(f"{settings}: {error}") from None
    if config.lambda_form == "additive" and not rule.measures and config.lambda_rule != "fixed":
        raise ValueError(
            f"lambda_form='additive' does not go with lambda_rule={config.lambda_rule!r}, a schedule of weights "
            "that add up to one: set lambda_form to convex or sum_two."
        )
    if config.lambda_rule != "fixed" and config.kd_weight != type(config).kd_weight:
        raise ValueError(
            f"kd_weight={config.kd_weight} is for lambda_rule='fixed', and lambda_rule={config.lambda_rule!r} sets λ "
            "itself: leave kd_weight out, or set lambda_rule to fixed."
        )
    if "smoothness" in rule.needs and config.interval > 1:
        raise ValueError(
            f"lambda_rule={config.lambda_rule!r} compares the losses of consecutive steps, which lambda_interval="
            f"{config.lambda_interval} skips: set lambda_interval to 1."
        )
    if config.lambda_scope == "layer" and (config.interval > 1 or not rule.measures):
        raise ValueError(
            "lambda_scope='layer' needs both gradients at each step: set lambda_interval to 1, and lambda_rule to "
            "one that measures."
        )


def check_kernels(config: Any) -> None:
    """Refuse Liger's kernels where their backward pass would be wrong, or where there are none.

    Raises:
        ValueError: names the setting and the fix.
    """
    if config.use_liger_kernel and config.rule.measures:
        raise ValueError(
            f"use_liger_kernel=True is not for lambda_rule={config.lambda_rule!r}: it overwrites in one backward pass "
            "what a measuring step needs in the second: leave it out, or set lambda_rule to fixed."
        )
    if config.use_liger_kernel and not is_liger_kernel_available():
        raise ValueError(
            "use_liger_kernel=True: liger-kernel is not installed: pip install liger-kernel, or leave it out."
        )


def check_split(config: Any) -> None:
    """Refuse one λ for each KD loss with settings that it does not go with.

    Raises:
        ValueError: names the setting and the fix.
    """
    if config.kd_losses is not None:
        config.kd_losses_for(num_labels=2)  # what is wrong with them whatever the labels are
    if config.lambda_scope != "loss":
        return
    splitting = [name for name, rule in RULES.items() if rule.splits_kd]
    refusals = {
        f"lambda_rule={config.lambda_rule!r}: choose one of {', '.join(splitting)}.": not config.rule.splits_kd,
        f"kd_losses={config.kd_losses}: name two or more.": len(config.kd_losses or ()) < 2,
        "gram_metric='adam': set it to euclidean.": config.gram_metric != "euclidean",
        "gram_estimator='unbiased': set it to biased.": config.gram_estimator != "biased",
    }
    for message, refused in refusals.items():
        if refused:
            raise ValueError(f"lambda_scope='loss', one λ for each KD loss, does not go with {message}")


def check_cache(config: Any) -> None:
    """Refuse settings of a cache that is off, or that would hold less than the losses need.

    Raises:
        ValueError: names the setting and the fix.
    """
    for name in ("cache_hidden_states", "cache_top_logits"):
        if getattr(config, name) and not config.cache_teacher:
            raise ValueError(f"{name}={getattr(config, name)} needs cache_teacher: set it to True.")
    if config.cache_top_logits is None:
        return
    losses = config.kd_losses_for(num_labels=2)
    if whole := [name for name, loss in losses.items() if isinstance(loss, LogitLoss) and name != "soft_targets"]:
        raise ValueError(
            f"cache_top_logits={config.cache_top_logits} is enough for soft_targets, but not for "
            f"{', '.join(whole)}: leave out either."
        )


def check_early_stopping(config: Any) -> None:
    """Refuse to stop early without evaluations that are compared.

    Raises:
        ValueError: names the setting and the fix.
    """
    patience = config.early_stopping_patience
    if patience is None:
        return
    if not config.load_best_model_at_end:
        raise ValueError(
            f"early_stopping_patience={patience} needs load_best_model_at_end: set it to True, and eval_strategy and "
            "save_strategy to epoch."
        )
