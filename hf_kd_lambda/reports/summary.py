"""What λ did over a run and what held it, in numbers and in words."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

WORTH_ADVICE = 0.1  # of the measurements: what held λ in fewer hardly shaped the run


class Holder(NamedTuple):
    """What can keep λ from being as its rule says: the key of its share, words for it, and what to do about it."""

    key: str
    words: str
    advice: str


HOLDERS = {
    "clipped": Holder(
        "lambda_clipped",
        "clipped into the interval where neither loss grows",
        "the rule weighed one loss more than the other can bear, and norm_ratio is the rule that never does",
    ),
    "slowed": Holder(
        "lambda_slowed",
        "slowed down",
        "raise lambda_max_change to let it follow the gradients faster, or gram_decay to give it less noise to follow",
    ),
    "floor": Holder("lambda_floor", "at its floor", "lower lambda_min to let the KD loss weigh less"),
    "ceiling": Holder("lambda_ceiling", "at its ceiling", "raise lambda_max to let the KD loss weigh more"),
    "held": Holder(
        "lambda_held",
        "kept for a vanishing gradient",
        "labels that are memorised, or a student that equals its teacher, leave nothing to balance",
    ),
    "skipped": Holder(
        "lambda_skipped_share",
        "kept for a gradient that was not finite",
        "lower learning_rate, or train in bf16 or fp32 if this was fp16",
    ),
}
SHARES = {"conflict": "lambda_conflict", "free": "lambda_free"} | {name: each.key for name, each in HOLDERS.items()}


def lambda_summary(log_history: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """What λ did over a run, in numbers.

    Args:
        log_history: the entries of `trainer_state.json`; those of evaluations are skipped.

    Returns:
        `first`, `last`, `median`, `min` and `max` of the logged λ; `shares` in [0, 1] of the measurements that were in
        `conflict`, left λ `free`, or held it by one of `HOLDERS`, weighted by the steps that each log covers; the
        median `snr_task` and `snr_kd`; the last `odds`, `evidence_teacher` and `evidence_label`; `layers`, the median
        λ of each. What was not logged is left out, so that a run without a finite λ gives an empty dictionary.
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
    for key in ("odds", "evidence_teacher", "evidence_label"):
        if found := _finite(entries, key):
            summary[key] = found[-1]
    layers = sorted({key for entry in entries for key in entry if key.startswith("lambda/")})
    found_in = {key.removeprefix("lambda/"): _finite(entries, key) for key in layers}
    summary["layers"] = {name: statistics.median(found) for name, found in found_in.items() if found}
    return {key: value for key, value in summary.items() if value != {}}


def explain_lambda(log_history: Sequence[Mapping[str, float]]) -> str:
    """What λ did over a run, in a few lines for the terminal: its course, the conflict, what held it and what to do.

    Args:
        log_history: as for `lambda_summary`.
    """
    summary = lambda_summary(log_history)
    if not summary:
        return "No finite λ was logged: lower logging_steps, unless the run was on the KD loss alone."
    lines = [_course(summary)]
    if shares := summary.get("shares"):
        lines += _what_held_it(shares)
    if layers := summary.get("layers"):
        low, high = min(layers, key=layers.get), max(layers, key=layers.get)
        lines.append(
            f"Apart, the median λ is lowest in {low} ({layers[low]:.2g}), highest in {high} ({layers[high]:.2g})."
        )
    noise = "Signal over noise is {snr_task:.2g} in the task gradient, {snr_kd:.2g} in the KD gradient (medians)."
    odds = "The odds that the student sides with the teacher, not the label, ended at {odds:.2g}."
    lines.append(
        " ".join(text.format(**summary) for text, key in ((noise, "snr_kd"), (odds, "odds")) if key in summary)
    )
    return "\n".join(filter(None, lines))


def _course(summary: Mapping[str, Any]) -> str:
    if summary["min"] == summary["max"]:
        return f"λ stayed at {summary['last']:.2g}."
    course = "λ went from {first:.2g} to {last:.2g} (median {median:.2g}, between {min:.2g} and {max:.2g})."
    return course.format(**summary)


def _what_held_it(shares: Mapping[str, float]) -> list[str]:
    """Returns lines on the conflict, on what held λ and on what can be done about it, as far as they were logged."""
    lines = []
    if "conflict" in shares:
        conflict = "the losses were in conflict: a step along one gradient raises the other loss"
        lines.append(f"In {_percent(shares['conflict'])} of the measurements {conflict}.")
    held = sorted((name for name in HOLDERS if shares.get(name, 0.0) > 0), key=lambda name: -shares[name])
    parts = [f"{HOLDERS[name].words} in {_percent(shares[name])}" for name in held]
    if "free" in shares:
        parts.insert(0, f"as its rule says in {_percent(shares['free'])} of the measurements")
    if parts:
        lines.append(f"λ was {', '.join(parts)}.")
    if held and shares[held[0]] >= WORTH_ADVICE:
        most_often = HOLDERS[held[0]]
        lines.append(f"Where it was held, it was mostly {most_often.words}: {most_often.advice}.")
    return lines


def _finite(entries: Sequence[Mapping[str, float]], key: str) -> list[float]:
    return [entry[key] for entry in entries if math.isfinite(entry.get(key, math.nan))]


def _mean_over_steps(entries: Sequence[Mapping[str, float]], key: str) -> float | None:
    """Returns the mean of what was logged under `key`, weighted by the steps since the log before; None of nothing."""
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
