"""The course of λ during a run and what limited it, in numbers and in words."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hf_kd_lambda.losses.registry import KD_LOSSES
from hf_kd_lambda.utils.log_keys import LIMITS, teacher_keys

WORTH_ADVICE = 0.1  # share of the measurements; a rarer limit had little effect on the run
FEW_VOTES = 10.0  # fewer votes have less weight than the prior of the odds, 5 for teacher and 5 for label
TINY_KD_GRADIENT = 0.05  # relative to the task gradient
SHARES = {"conflict": "lambda_conflict"} | {name: limit.key for name, limit in LIMITS.items()}
CHECK_TEACHER = (
    "check the teacher: is it fine-tuned on this task, and better than chance? "
    "{reason}, so that a larger λ would amplify noise"
)


def lambda_summary(log_history: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """The course of λ during a run, in numbers.

    Args:
        log_history: the entries of `trainer_state.json`; evaluations are skipped.

    Returns:
        `first`, `last`, `median`, `min` and `max` of the logged λ; `shares` in [0, 1] of the measurements in
        `conflict` and of those in which each of `LIMITS` applied, weighted by the steps that a log covers; the medians
        of `snr_task`, `snr_kd` and `kd_gradient` (norm of the KD gradient divided by that of the task gradient); the
        last `odds`, `evidence_teacher`, `evidence_label`, `label_reliability` and `teacher_reliability`; `teachers`,
        the last reliability of each of several; `layers`, the median λ per layer, or per KD loss. Values that were
        not logged are omitted; without a finite λ the dictionary is empty.
    """
    entries = [entry for entry in log_history if math.isfinite(entry.get("lambda", math.nan))]
    if not entries:
        return {}
    values = _finite(entries, "lambda")
    summary: dict[str, Any] = {"first": values[0], "last": values[-1], "median": statistics.median(values)}
    summary |= {"min": min(values), "max": max(values)}
    shares = {name: _mean_over_steps(entries, key) for name, key in SHARES.items()}
    summary["shares"] = {name: share for name, share in shares.items() if share is not None}
    for key in ("snr_task", "snr_kd"):
        if found := _finite(entries, key):
            summary[key] = statistics.median(found)
    if ratios := _gradient_ratios(entries):
        summary["kd_gradient"] = statistics.median(ratios)
    for key in ("odds", "evidence_teacher", "evidence_label", "label_reliability", "teacher_reliability"):
        if found := _finite(entries, key):
            summary[key] = found[-1]
    summary["teachers"] = [found[-1] for key in teacher_keys(entries) if (found := _finite(entries, key))]
    layers = sorted({key for entry in entries for key in entry if key.startswith("lambda/")})
    found_in = {key.removeprefix("lambda/"): _finite(entries, key) for key in layers}
    summary["layers"] = {name: statistics.median(found) for name, found in found_in.items() if found}
    return {key: value for key, value in summary.items() if value not in ({}, [])}


def explain_lambda(log_history: Sequence[Mapping[str, float]]) -> str:
    """The course of λ during a run, in a few lines: values, conflict, limits, and advice.

    Args:
        log_history: as for `lambda_summary`.
    """
    summary = lambda_summary(log_history)
    if not summary:
        return "No finite λ was logged: lower logging_steps, unless the run used only the KD loss."
    if all(entry.get("task_loss") == 0 for entry in log_history if "lambda" in entry):
        return "No training example has a label: the student learned from the teacher alone, whatever λ."
    lines = [_course(summary)]
    if "shares" in summary:
        lines += _what_limited_it(summary)
    if layers := summary.get("layers"):
        low, high = min(layers, key=layers.get), max(layers, key=layers.get)
        lines.append(
            f"By {what_has_a_lambda(layers)}, the median λ is lowest in {low} ({layers[low]:.2g}), highest in {high} "
            f"({layers[high]:.2g})."
        )
    noise = "Signal over noise is {snr_task:.2g} in the task gradient, {snr_kd:.2g} in the KD gradient (medians)."
    odds = (
        "The odds that the student agrees with the teacher rather than the label were {odds:.2g}; only the first "
        "epoch counts."
    )
    trust = (
        "By estimate, {label_reliability:.0%} of the labels and {teacher_reliability:.0%} of the teacher's outputs "
        "are informative; the others are no better than guesses."
    )
    if teachers := summary.get("teachers"):
        trust += f" By teacher, {', '.join(f'{share:.0%}' for share in teachers)} of the outputs are informative."
    texts = {("snr_task", "snr_kd"): noise, ("odds",): odds, ("label_reliability", "teacher_reliability"): trust}
    lines.append(" ".join(text.format(**summary) for keys, text in texts.items() if summary.keys() >= {*keys}))
    return "\n".join(filter(None, lines))


def what_has_a_lambda(names: Iterable[str]) -> str:
    """`KD loss` if all names are those of KD losses (`lambda_scope: loss`), else `layer`.

    Args:
        names: of log keys `lambda/<name>`.
    """
    return "KD loss" if KD_LOSSES.keys() >= set(names) else "layer"


def _course(summary: Mapping[str, Any]) -> str:
    share = f"the KD loss {_percent(summary['last'] / (1 + summary['last']))} of the weight of both losses."
    if summary["min"] == summary["max"]:
        return f"λ stayed at {summary['last']:.2g}, which gives {share}"
    course = (
        "λ went from {first:.2g} to {last:.2g} (median {median:.2g}, smallest {min:.2g}, largest {max:.2g}), which "
        "gives "
    )
    return course.format(**summary) + share


def _what_limited_it(summary: Mapping[str, Any]) -> list[str]:
    """Lines on conflict, limits of λ and advice, as far as they were logged."""
    shares, lines = summary["shares"], []
    if "conflict" in shares:
        conflict = "the losses conflicted: a step along one gradient increases the other loss"
        lines.append(f"In {_percent(shares['conflict'])} of the measurements {conflict}.")
    limits = sorted((name for name in LIMITS if shares.get(name, 0.0) > 0), key=lambda name: -shares[name])
    if "free" in shares:
        limits = ["free", *(name for name in limits if name != "free")]
    if limits:
        first, *others = (f"{LIMITS[name].words} in {_percent(shares[name])}" for name in limits)
        lines.append(f"λ was {', '.join([f'{first} of the measurements', *others])}.")
    often = next((name for name in limits if name != "free" and shares[name] >= WORTH_ADVICE), None)
    if often is not None:
        lines.append(f"Where a limit applied, λ was most often {LIMITS[often].words}: {_advice(often, summary)}.")
    return lines


def _advice(limit: str, summary: Mapping[str, Any]) -> str:
    """Advice for the most frequent limit: a larger λ only if the KD gradient is informative."""
    reason = _why_uninformative(summary) if limit == "ceiling" else None
    return LIMITS[limit].advice if reason is None else CHECK_TEACHER.format(reason=reason)


def _why_uninformative(summary: Mapping[str, Any]) -> str | None:
    """Why the KD gradient seems uninformative; None without such evidence."""
    if summary.get("kd_gradient", math.inf) < TINY_KD_GRADIENT:
        return f"the KD gradient is only {summary['kd_gradient']:.2g} times the task gradient"
    if summary.get("evidence_teacher", math.inf) + summary.get("evidence_label", math.inf) < FEW_VOTES:
        return "the teacher hardly ever disagrees with the label with confidence"
    return None


def _gradient_ratios(entries: Sequence[Mapping[str, float]]) -> list[float]:
    """Norm of the KD gradient divided by that of the task gradient, for every entry with both."""
    norms = [(entry.get("grad_norm_kd", math.nan), entry.get("grad_norm_task", math.nan)) for entry in entries]
    return [kd / task for kd, task in norms if math.isfinite(kd) and math.isfinite(task) and task > 0]


def _finite(entries: Sequence[Mapping[str, float]], key: str) -> list[float]:
    return [entry[key] for entry in entries if math.isfinite(entry.get(key, math.nan))]


def _mean_over_steps(entries: Sequence[Mapping[str, float]], key: str) -> float | None:
    """Mean of the values under `key`, weighted by the steps since the previous log; None without values."""
    steps = [0.0, *(entry["step"] for entry in entries)]
    covered = [
        (entry[key], entry["step"] - before)
        for before, entry in zip(steps, entries, strict=False)
        if math.isfinite(entry.get(key, math.nan))
    ]
    total = sum(weight for _, weight in covered)
    return sum(share * weight for share, weight in covered) / total if total else None


def _percent(share: float) -> str:
    return "under 1%" if 0 < share < 0.005 else "over 99%" if 0.995 < share < 1 else f"{share:.0%}"
