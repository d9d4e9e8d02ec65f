"""How a run trains and balances. The `help` of a field is the only place where it is documented."""

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from transformers import TrainingArguments

from hf_kd_lambda.balancing.rules import RULES, Rule, make_rule
from hf_kd_lambda.losses.base import KDLoss
from hf_kd_lambda.losses.registry import OF_DISTRIBUTIONS, make_kd_losses
from hf_kd_lambda.trainer.argument_ranges import check_numbers, check_training_arguments
from hf_kd_lambda.trainer.config_checks import (
    check_cache,
    check_choices,
    check_early_stopping,
    check_kernels,
    check_precision,
    check_ranges,
    check_rule,
    check_split,
)
from hf_kd_lambda.trainer.config_defaults import resolve_best_model, resolve_device, resolve_evaluations
from hf_kd_lambda.utils.mappings import as_mapping

DEFAULT_INTERVAL = 8

LambdaForm = Literal["additive", "convex", "sum_two", "raw"]
GramMetric = Literal["euclidean", "adam"]
GramEstimator = Literal["biased", "unbiased"]
LambdaScope = Literal["model", "layer", "loss"]
ClassWeights = Literal["balanced"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
_CHOICES = {
    "lambda_form": LambdaForm,
    "gram_metric": GramMetric,
    "gram_estimator": GramEstimator,
    "lambda_scope": LambdaScope,
    "class_weights": Literal[None, ClassWeights],
    "precision": Precision,
    "train_sampling_strategy": Literal["random", "sequential", "group_by_length", "batch_rebalance"],
}


@dataclass
class DistillationConfig(TrainingArguments):
    """`TrainingArguments`, and how the distillation loss is formed and balanced.

    Raises:
        ValueError: a setting is out of its range; the message names the setting, its value and the range.
    """

    temperature: float = field(
        default=2.0,
        metadata={"help": "Temperature T that softens both distributions of a classifier (Hinton et al. 2015)."},
    )
    kd_losses: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "The weighted sum that is the KD loss: for each loss, its weight or its hyper-parameters, "
            "for example `{soft_targets: 1, hidden_mse: {weight: 0.5, layers: last}}`. All losses: "
            "docs/reference/losses.md. Default: `soft_targets`; for a regression `logit_mse`."
        },
    )
    lambda_rule: str = field(
        default="trust",
        metadata={
            "help": "How λ, the ratio of the KD loss's weight to the task loss's, is set while training. "
            "`trust`: for each item (an example, a token or a label) κ√(a/b), with a and b the squared gradient norms "
            "of the task loss and the KD loss, times the probability that the teacher is informative on it, divided "
            "by that of its label; for classes times up to 4, the more reliable the teacher is. Not with "
            "`compute_loss_func`, which has no losses of single items. "
            "`evidence`: κ√(a/b) times odds²; the odds say how much more often the student agrees with the teacher "
            "than with the label, on new examples where the two differ. "
            "`adaptive`: κ√(a/b), clipped into the interval in which neither loss increases "
            "to first order. `fixed`: from `kd_weight`, never changed. All rules: docs/reference/rules.md."
        },
    )
    lambda_rule_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Hyper-parameters of the rule, for example `{gamma: 1.0}` for `evidence`."}
    )
    lambda_form: LambdaForm = field(
        default="convex",
        metadata={
            "help": "Sum of the weights of both losses, which sets the length of the step; their ratio is λ. "
            "`convex`: 1, so the step is never longer than the longer of the two gradients. `sum_two`: 2, as in "
            "task_loss + kd_loss. `additive`: 1 + λ, as in task_loss + λ·kd_loss. `raw`: as in the rule's paper. If a "
            "bound or an uninformative teacher changes λ, `raw` keeps the task loss's weight where that is 1, and "
            "this sum otherwise."
        },
    )
    kd_weight: float = field(
        default=0.5,
        metadata={
            "help": "Weight of the KD loss for the `fixed` rule; refused with others. In [0, 1], and the task loss "
            "weighs 1 − kd_weight; with `additive`: ≥ 0, in addition to weight 1 of the task loss."
        },
    )
    lambda_kappa: float = field(
        default=1.0,
        metadata={
            "help": "κ > 0, for `evidence`, `trust`, `adaptive`, `norm_ratio` and `snr`: desired norm of the KD "
            "gradient divided by that of the task gradient, before odds, trust or the estimate of noise change it."
        },
    )
    lambda_min: float = field(
        default=0.1,
        metadata={
            "help": "Lower bound of a measured λ. If the labels are memorised, the task gradient vanishes, and √(a/b) "
            "with it. The bound keeps the KD loss, from which the student can still learn."
        },
    )
    lambda_max: float = field(default=10.0, metadata={"help": "Upper bound of a measured λ."})
    lambda_max_change: float = field(
        default=0.5,
        metadata={"help": "Bound on |Δ log λ| between measurements: 0.5 lets λ change by a factor of 1.65."},
    )
    gram_decay: float = field(
        default=0.9,
        metadata={
            "help": "Decay of the moving averages of a, b and c over measurements, in [0, 1). Single batches are "
            "noisy: √(a/b) varies by more than half of its mean. 0 keeps no memory."
        },
    )
    lambda_interval: int | None = field(
        default=None,
        metadata={
            "help": "Measure λ at every n-th optimizer step. Other steps cost one ordinary backward pass. Default: 8, "
            "at which students scored the same as at 1, with `adaptive` (docs/benchmarks/cost.md); 1 for `taylor2` "
            "and for `lambda_scope: layer`."
        },
    )
    gram_metric: GramMetric = field(
        default="euclidean",
        metadata={
            "help": "Dot product of a, b and c. `adam`: ⟨x, x/(√v + ε)⟩ with Adam's second moments v, which predicts "
            "what a step of Adam or AdamW does to the losses. `euclidean`: what a step of SGD does."
        },
    )
    gram_estimator: GramEstimator = field(
        default="biased",
        metadata={
            "help": "`unbiased`: leave the noise of the batch out of a, b and c, estimated from the micro-batches of "
            "an optimizer step, of which there must be two or more over accumulation and ranks. Needs memory for two "
            "more gradients. `biased`: leave the noise in."
        },
    )
    lambda_scope: LambdaScope = field(
        default="model",
        metadata={
            "help": "`model`: one λ. `layer`: one for each layer, one for the parameters before them and one for "
            "those after, from the parts of the same two gradients. `loss`: one for each of `kd_losses`, from the "
            "gradients of all."
        },
    )
    cache_teacher: bool = field(
        default=True,
        metadata={
            "help": "Compute the teacher's logits once, before training, and cache them for all epochs and later "
            "runs; the teacher then leaves the accelerator's memory. Switched off, with a warning, if examples are "
            "streamed or augmented at random. Off for language models, whose logits are too large to cache, unless "
            "`cache_top_logits` is set."
        },
    )
    cache_hidden_states: bool = field(
        default=False,
        metadata={
            "help": "Also cache the hidden states that `kd_losses` need, in fp16, which changes λ by about a "
            "thousandth; their size is logged first. Without it, the teacher runs at each step that needs them."
        },
    )
    cache_top_logits: int | None = field(
        default=None,
        metadata={
            "help": "For a language model, cache this many of the teacher's largest logits of each token, in fp16, "
            "with the total probability of all others. Only `soft_targets`, among the losses of logits, can use it."
        },
    )
    teacher_cache_dir: str | None = field(
        default=None,
        metadata={
            "help": "Where the teacher's outputs are cached. Default: `hf_kd_lambda` in the folder that `HF_HOME` "
            "names, by default `~/.cache/huggingface`. You may delete it between runs."
        },
    )
    precision: Precision = field(
        default="auto",
        metadata={
            "help": "Autocast of training. `auto`: bf16 where the accelerator or the processor (AMX, AVX-512, Arm) "
            "multiplies it in hardware, else fp32. `bf16=True` or `fp16=True` of TrainingArguments win over `auto`, "
            "and the launcher's `--mixed_precision` over all. `bf16=False` is the default: for fp32, set `fp32` here."
        },
    )

    class_weights: ClassWeights | None = field(
        default=None,
        metadata={
            "help": "`balanced`: in the task loss, an item of a class weighs n / (classes · n_c), with n_c of the n "
            "labels of the training examples of this class. Default: the class does not matter."
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "End training after this many evaluations without a better `metric_for_best_model`. Needs "
            "`load_best_model_at_end`, which the command line sets. Default: train to the end."
        },
    )
    train_sampling_strategy: str = field(
        default="group_by_length",
        metadata={
            "help": "`group_by_length`: length-grouped batches, which need little padding, from random windows of 50 "
            "batches. Without tokens: `random`."
        },
    )
    logging_steps: float = field(
        default=0.02,
        metadata={
            "help": "Steps between log entries; below 1, a share of all steps. The default gives about 50 entries. "
            "With a share, `eval_steps` defaults to `save_steps`."
        },
    )
    logging_first_step: bool = field(default=True, metadata={"help": "Log the first step, too."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Hide losses that are not finite in the logs. Training stops at them anyway."}
    )
    dataloader_num_workers: int | None = field(
        default=None,
        metadata={
            "help": "Processes that prepare batches. Default: on the CPU none, since they would take its cores from "
            "training; none where processes are not forked (macOS, Windows, Python 3.14), since each would run your "
            "script again; otherwise as many as 4, but no more than a rank's share of the cores."
        },
    )

    if TYPE_CHECKING:  # TrainingArguments' own, which the type checker does not see
        use_cpu: bool = False
        fp16: bool = False
        bf16: bool = False
        load_best_model_at_end: bool = False
        metric_for_best_model: str | None = None

    def __post_init__(self) -> None:
        self.lambda_rule_kwargs = as_mapping(self.lambda_rule_kwargs, "lambda_rule_kwargs", '{"gamma": 1.0}')
        self.kd_losses = as_mapping(self.kd_losses, "kd_losses", '{"soft_targets": 1.0}')
        check_numbers(vars(self))
        check_ranges(self)
        check_choices(self, _CHOICES)
        check_precision(self)
        check_rule(self)
        check_kernels(self)
        check_split(self)
        check_cache(self)
        check_early_stopping(self)
        resolve_best_model(self)
        resolve_evaluations(self)
        self.enable_jit_checkpoint = False  # a signal saves a checkpoint in any case: see `SaveOnSignal`
        resolve_device(self)
        super().__post_init__()
        check_training_arguments(self)  # now that mappings given as JSON are read

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled, as into `training_args.bin`: all but the token."""
        return self.__dict__ | {"hub_token": None}

    def __copy__(self) -> "DistillationConfig":
        """A copy with the token, which `copy.copy` would otherwise take from the pickled state."""
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> "DistillationConfig":
        """The same, of all settings."""
        copied = copy.copy(self)
        copied.__dict__ = copy.deepcopy(self.__dict__, memo)
        return copied

    @property
    def rule(self) -> Rule:
        """The rule for λ, with its hyper-parameters."""
        hyper = dict(cast(dict[str, Any], self.lambda_rule_kwargs or {}))
        if self.lambda_rule == "fixed":
            hyper |= {"kd_weight": self.kd_weight, "form": "additive" if self.lambda_form == "additive" else "convex"}
        elif "kappa" in getattr(RULES.get(self.lambda_rule), "__dataclass_fields__", {}):
            hyper["kappa"] = self.lambda_kappa
        return make_rule(self.lambda_rule, hyper)

    @property
    def autocast(self) -> str:
        """The precision that training takes: `fp32`, `bf16` or `fp16`."""
        return "bf16" if self.bf16 else "fp16" if self.fp16 else "fp32"

    @property
    def interval(self) -> int:
        """Optimizer steps from one measurement of λ to the next."""
        if self.lambda_interval is not None:
            return self.lambda_interval
        return 1 if "smoothness" in self.rule.needs or self.lambda_scope == "layer" else DEFAULT_INTERVAL

    @property
    def _given_kd_losses(self) -> dict[str, KDLoss] | None:
        """The KD losses that `kd_losses` names; None where it is left out."""
        given = cast(dict[str, Any] | None, self.kd_losses)
        if given is None:
            return None
        try:
            return make_kd_losses(given)
        except ValueError as error:
            raise ValueError(f"kd_losses={given}: {error}") from None

    def kd_losses_for(self, num_labels: int) -> dict[str, KDLoss]:
        """The KD losses of a student with this many outputs, by name.

        Raises:
            ValueError: one of them is unknown, set wrong, or has no meaning for one output.
        """
        losses = self._given_kd_losses
        if losses is None:
            return make_kd_losses({"soft_targets" if num_labels > 1 else "logit_mse": 1.0})
        if num_labels == 1 and (softened := losses.keys() & OF_DISTRIBUTIONS):
            raise ValueError(
                f"kd_losses={self.kd_losses}: {', '.join(sorted(softened))} compares distributions over classes, and "
                "a regression has one output: take logit_mse."
            )
        return losses
