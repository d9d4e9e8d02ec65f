"""The keys that training logs, and the limits of λ.

Training logs these keys; the figure, the summary and the docs use the definitions here.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

MAIN_METRIC = "score"
"""The metric of every task by which the best student is chosen and models are compared; higher is better."""
TIMES = ("runtime", "per_second", "preparation_time")
"""Ends of the keys of an evaluation's times, which are no scores."""


class Limit(NamedTuple):
    """A limit that can determine λ at a measurement.

    Attributes:
        key: log key of the share of measurements since the last log in which this limit applied.
        words: completes the sentence "λ was …".
        advice: what it means if the limit often applies, or what to do; empty if nothing needs to be done.
    """

    key: str
    words: str
    advice: str = ""


LIMITS = {
    "free": Limit("lambda_free", "set by the rule alone"),
    "clipped": Limit(
        "lambda_clipped",
        "clipped, so that neither loss increases",
        "the rule proposed a λ at which one loss increases; with adaptive, set lambda_kappa closer to 1",
    ),
    "slowed": Limit(
        "lambda_slowed",
        "slowed by lambda_max_change",
        "raise lambda_max_change to let λ follow the gradients faster, or gram_decay to make them less noisy",
    ),
    "floor": Limit("lambda_floor", "at lambda_min", "without this limit the rule would set λ lower"),
    "ceiling": Limit(
        "lambda_ceiling",
        "at lambda_max",
        "this is normal if the teacher looks much more reliable than the labels, and a higher lambda_max may not help",
    ),
    "held": Limit(
        "lambda_held",
        "unchanged (a gradient is zero)",
        "there is nothing to balance in batches without labels, if labels are memorised, or if the student equals its "
        "teacher",
    ),
    "skipped": Limit(
        "lambda_skipped_share",
        "unchanged (non-finite gradient)",
        "lower learning_rate, or train in bf16 or fp32 if this was fp16",
    ),
}
"""Limits of λ by name, in the order of the counts in a checkpoint. If several apply, the last one is counted."""
LIMIT_NAMES = tuple(LIMITS)
LIMIT_KEYS = tuple(limit.key for limit in LIMITS.values())

LOG_KEYS = {
    "lambda": "current λ: weight of the KD loss divided by that of the task loss; geometric mean over layers",
    "lambda/<name>": "λ of one layer or of one KD loss (`lambda_scope`)",
    "kd_weight": "current weight of the KD loss",
    "task_loss": "task loss, mean over the steps since the last log",
    "kd_loss": "weighted sum of the KD losses, mean over the steps since the last log",
    "kd_loss/<name>": "a single KD loss, without its weight, mean over the steps since the last log",
    "grad_norm_task": "norm √a of the task gradient at the last measurement, in `gram_metric`",
    "grad_norm_kd": "norm √b of the KD gradient at the last measurement, in `gram_metric`",
    "grad_cosine": "cosine of the two gradients at the last measurement; the losses conflict if it is negative",
    "lambda_conflict": "share of the measurements in which the losses conflicted",
    **{limit.key: f"share of the measurements in which λ was {limit.words}" for limit in LIMITS.values()},
    "lambda_skipped": "number of measurements skipped so far because a gradient was not finite",
    "snr_task": "signal-to-noise ratio of the task gradient (`gram_estimator: unbiased`)",
    "snr_kd": "signal-to-noise ratio of the KD gradient (`gram_estimator: unbiased`)",
    "evidence_teacher": "the student's soft votes for the teacher where teacher and label disagree",
    "evidence_label": "the student's soft votes for the label where teacher and label disagree",
    "odds": "odds that the teacher is right where teacher and label disagree",
    "label_reliability": "α, probability that a label is informative (`trust`)",
    "teacher_reliability": "β, probability that the teacher is informative on an item (`trust`); mean of several",
    "teacher_reliability_<m>": "β of one of several teachers, counted from 0 in the order of `teacher` (`trust`)",
    "smoothness_task": "smoothness of the task loss along the steps (`taylor2`)",
    "smoothness_kd": "smoothness of the KD loss along the steps (`taylor2`)",
}
"""Meaning of the keys in a training log; `<name>` is the name of a layer or KD loss."""


def teacher_keys(entries: Iterable[Mapping[str, float]]) -> list[str]:
    """The keys `teacher_reliability_<m>` that were logged, in the order of the teachers."""
    prefix = "teacher_reliability_"
    keys = {key for entry in entries for key in entry if key.startswith(prefix)}
    return sorted(keys, key=lambda key: int(key.removeprefix(prefix)))


EVALUATION_KEYS = {
    "task_loss": "task loss, mean over the items of the evaluation; missing if no item has a label",
    "kd_loss": "sum of the KD losses with the weights of `kd_losses`, mean over the items of the evaluation",
    "kd_loss/<name>": "a single KD loss, without its weight",
    "teacher_agreement": "share of items with the same class from student and teacher; correlation for regression",
}
"""Meaning of the keys that an evaluation adds to its metrics, after the prefix (`eval_` by default)."""
