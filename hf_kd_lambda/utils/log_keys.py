"""Every key that training logs, and everything that can limit λ, defined once.

Training writes these keys into the logs; the figure, the summary and the docs read them from here.
"""

from typing import NamedTuple


class Limit(NamedTuple):
    """What decided λ at a measurement.

    Attributes:
        key: logged under it, the share of the measurements since the last log in which this decided λ.
        words: complete the sentence "λ was …".
        advice: what to do if it decides λ often; empty where nothing needs doing.
    """

    key: str
    words: str
    advice: str = ""


LIMITS = {
    "free": Limit("lambda_free", "set by the rule alone"),
    "clipped": Limit(
        "lambda_clipped",
        "clipped so that no loss grows",
        "the rule asked for a λ at which one of the losses grows; norm_ratio never does",
    ),
    "slowed": Limit(
        "lambda_slowed",
        "slowed by lambda_max_change",
        "raise lambda_max_change to let λ follow the gradients faster, or gram_decay to make them less noisy",
    ),
    "floor": Limit("lambda_floor", "at lambda_min", "lower lambda_min to let the KD loss weigh less"),
    "ceiling": Limit("lambda_ceiling", "at lambda_max", "raise lambda_max to let the KD loss weigh more"),
    "held": Limit(
        "lambda_held",
        "kept, as a gradient vanished",
        "memorised labels, or a student that equals its teacher, leave nothing to balance",
    ),
    "skipped": Limit(
        "lambda_skipped_share",
        "kept, as a gradient was not finite",
        "lower learning_rate, or train in bf16 or fp32 if this was fp16",
    ),
}
"""What limited λ, by name, in the order of the counts in a checkpoint; where several act, the last one counts."""
LIMIT_NAMES = tuple(LIMITS)
LIMIT_KEYS = tuple(limit.key for limit in LIMITS.values())

LOG_KEYS = {
    "lambda": "λ in force: weight of the KD loss divided by that of the task loss; over layers, the geometric mean",
    "lambda/<name>": "λ of one layer or of one KD loss (`lambda_scope`)",
    "kd_weight": "weight of the KD loss in force",
    "task_loss": "task loss, mean over the steps since the last log",
    "kd_loss": "weighted sum of the KD losses, mean over the steps since the last log",
    "kd_loss/<name>": "one of several KD losses, without its weight, mean over the steps since the last log",
    "grad_norm_task": "norm √a of the task gradient at the last measurement, in `gram_metric`",
    "grad_norm_kd": "norm √b of the KD gradient at the last measurement, in `gram_metric`",
    "grad_cosine": "cosine of the two gradients at the last measurement; below 0 the losses are in conflict",
    "lambda_conflict": "share of the measurements in which the losses were in conflict",
    **{limit.key: f"share of the measurements in which λ was {limit.words}" for limit in LIMITS.values()},
    "lambda_skipped": "number of measurements so far that were skipped, as a gradient was not finite",
    "snr_task": "signal-to-noise ratio of the task gradient (`gram_estimator: unbiased`)",
    "snr_kd": "signal-to-noise ratio of the KD gradient (`gram_estimator: unbiased`)",
    "evidence_teacher": "votes of the student for the teacher, where teacher and label disagree",
    "evidence_label": "votes of the student for the label, where teacher and label disagree",
    "odds": "odds that the teacher is right where it and the label disagree",
    "label_reliability": "α, the probability that a label is informative (`trust`)",
    "teacher_reliability": "β, the probability that the teacher is informative on an item (`trust`)",
    "smoothness_task": "smoothness of the task loss along the steps (`taylor2`)",
    "smoothness_kd": "smoothness of the KD loss along the steps (`taylor2`)",
}
"""What each key of a training log means; `<name>` stands for a name of the run."""

EVALUATION_KEYS = {
    "task_loss": "task loss, mean over the items of the evaluation",
    "kd_loss": "weighted sum of the KD losses, mean over the items of the evaluation",
    "kd_loss/<name>": "one of several KD losses, without its weight",
    "teacher_agreement": "share of items to which student and teacher give the same class; correlation for regression",
}
"""What each key means that an evaluation adds to its metrics, after its prefix (`eval_` by default)."""
