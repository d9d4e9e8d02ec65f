"""Statistics that compare rules for λ with fixed weights: pure maths over the runs of a comparison.

Scores, differences and regrets are in points, hundredths of a score. Failed runs are excluded.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import fmean, geometric_mean, median
from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap

from hf_kd_lambda.studies.comparison.run_results import Run, finished, is_fixed

CONFIDENCE = 0.95
RESAMPLES = 9999
NEAR = 0.99  # share of a score that counts as reached


class Group(NamedTuple):
    """Task and regime of comparable runs, which differ only in rule and seed."""

    task: str
    regime: str

    def __str__(self) -> str:
        return f"{self.task}, {self.regime}"


class Regret(NamedTuple):
    """How far a rule scores below the best fixed one of a group."""

    points: float
    """Negative if the rule is better than every fixed one."""
    seeds: int
    """The number of seeds that both the rule and the sweep have."""


class Difference(NamedTuple):
    """A mean paired difference."""

    mean: float
    interval: tuple[float, float] | None
    """From a bootstrap; None for fewer than two pairs."""
    pairs: int


class Reach(NamedTuple):
    """Time until runs reach a score; medians are infinite if too few of them reach it."""

    steps: float
    seconds: float
    reached: int
    runs: int


class SweepCost(NamedTuple):
    """The time of the sweep, in runs of a rule."""

    runs_of_rule: float
    pairs: int


def points(run: Run) -> float:
    """The score of a finished run.

    Raises:
        ValueError: the run failed.
    """
    if run.score is None:
        raise ValueError(f"{run.cell} has no score: it failed with {run.error!r}.")
    return 100 * run.score


def mean_points(runs: Iterable[Run]) -> float:
    """The mean score of one or more runs."""
    return fmean(map(points, runs))


def group_of(run: Run) -> Group:
    """The group of a run."""
    return Group(run.task, run.regime)


def groups(runs: Iterable[Run]) -> list[Group]:
    """All groups in the order of the runs, also those in which every run failed."""
    return list(dict.fromkeys(map(group_of, runs)))


def rules(runs: Iterable[Run]) -> list[str]:
    """All rules: the fixed ones by their λ, then the others in the order of the runs."""
    lambdas: dict[str, float] = {}
    others: dict[str, None] = {}
    for run in runs:
        if is_fixed(run):
            known = mean_lambda(run)  # comparable between `lambda_form`s, unlike `kd_weight`
            lambdas[run.rule] = min(lambdas.get(run.rule, math.inf), math.inf if known is None else known)
        else:
            others[run.rule] = None
    return [*sorted(lambdas, key=lambda rule: lambdas[rule]), *others]


def fixed_rules(runs: Sequence[Run]) -> list[str]:
    """The rules of the sweep, sorted by λ."""
    return rules(run for run in runs if is_fixed(run))


def of_rule(runs: Iterable[Run], group: Group, rule: str) -> dict[int, Run]:
    """The finished runs of a rule in a group, by seed."""
    return {run.seed: run for run in finished(runs) if run.rule == rule and group_of(run) == group}


def fixed_sweep(runs: Sequence[Run], group: Group) -> dict[str, dict[int, Run]]:
    """The runs of the fixed rules in a group, at the seeds at which all of them finished.

    A fixed rule that failed at every seed is left out. If one has not been run yet, there is no sweep: the best of a
    part of it would be too easy to beat.

    Returns:
        Runs by rule and seed, the same seeds for each rule; empty if there is no such seed.
    """
    started = {run.rule for run in runs if group_of(run) == group}
    by_rule = {rule: of_rule(runs, group, rule) for rule in fixed_rules(runs)}
    ran = {rule: seeds for rule, seeds in by_rule.items() if seeds}
    if not ran or not by_rule.keys() <= started:
        return {}
    common = sorted(set.intersection(*map(set, ran.values())))
    return {rule: {seed: seeds[seed] for seed in common} for rule, seeds in ran.items()} if common else {}


def best_fixed(runs: Sequence[Run], group: Group) -> dict[int, Run]:
    """The runs of the fixed rule with the highest mean score, by seed; none if there is no sweep."""
    return max(fixed_sweep(runs, group).values(), key=lambda seeds: mean_points(seeds.values()), default={})


def is_uneven(runs: Sequence[Run], group: Group) -> bool:
    """Whether rules finished different seeds, which makes their means less comparable."""
    seeds = {frozenset(of_rule(runs, group, rule)) for rule in rules(runs)}
    return len(seeds) > 1


def regrets(runs: Sequence[Run], rule: str) -> dict[Group, Regret]:
    """Best mean score of the sweep minus the rule's over their common seeds, for each group with common seeds."""
    found = {}
    for group in groups(runs):
        ours, theirs = of_rule(runs, group, rule), fixed_sweep(runs, group)
        common = [seed for seed in next(iter(theirs.values()), {}) if seed in ours]
        if common:
            best = max(mean_points(seeds[seed] for seed in common) for seeds in theirs.values())
            found[group] = Regret(best - mean_points(ours[seed] for seed in common), len(common))
    return found


def sweep_cost(runs: Sequence[Run], rule: str) -> SweepCost | None:
    """Seconds of the whole sweep divided by those of one run of the rule: mean over groups and common seeds.

    Seeds whose runs had different hardware or precision are left out.
    """
    ratios = []
    for group in groups(runs):
        ours, theirs = of_rule(runs, group, rule), fixed_sweep(runs, group).values()
        for seed in next(iter(theirs), {}):
            sweep = [fixed[seed] for fixed in theirs]
            if seed in ours and same_speed([ours[seed], *sweep]):
                ratios.append(sum(run.seconds for run in sweep) / ours[seed].seconds)
    return SweepCost(fmean(ratios), len(ratios)) if ratios else None


def same_speed(runs: Iterable[Run]) -> bool:
    """Whether all runs had the same hardware and precision, so that their seconds are comparable."""
    return len({(run.hardware, run.settings.get("precision")) for run in runs}) == 1


def paired(ours: Mapping[int, Run], theirs: Mapping[int, Run]) -> list[float]:
    """Our score minus theirs, for each common seed."""
    return [points(ours[seed]) - points(theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]


def pooled(runs: Sequence[Run], ours: str, theirs: str) -> list[float]:
    """The mean paired difference of two rules, for each group with common seeds."""
    pairs = (paired(of_rule(runs, group, ours), of_rule(runs, group, theirs)) for group in groups(runs))
    return [fmean(of_group) for of_group in pairs if of_group]


def against_tuned(runs: Sequence[Run], rule: str) -> list[float]:
    """The rule's score minus that of the fixed rule that is best at all other seeds: the mean of each group.

    This compares with a weight that a sweep chose for a new run. A regret compares with the best of the same runs,
    which is biased upwards.
    """
    differences = []
    for group in groups(runs):
        ours, theirs = of_rule(runs, group, rule), fixed_sweep(runs, group)
        seeds = list(next(iter(theirs.values()), {}))
        of_group = []
        for seed in seeds:
            others = [at for at in seeds if at != seed]
            if others and seed in ours:
                tuned = max(theirs.values(), key=lambda fixed: mean_points(fixed[at] for at in others))
                of_group.append(points(ours[seed]) - points(tuned[seed]))
        differences += [fmean(of_group)] if of_group else []
    return differences


def difference(pairs: Sequence[float]) -> Difference | None:
    """Mean and percentile bootstrap interval of paired differences; None if there are none.

    Pass one difference per group: runs of a group share their data, and some runs, such as those without KD, are the
    same in several groups of a task.

    The resamples have a fixed seed, so the interval is reproducible.
    """
    if not pairs:
        return None
    if len(pairs) < 2:
        return Difference(pairs[0], None, 1)
    resampled = bootstrap(
        (np.asarray(pairs),),
        np.mean,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        method="percentile",  # BCa is NaN if all differences are equal
        random_state=np.random.default_rng(0),
    )
    low, high = resampled.confidence_interval
    return Difference(fmean(pairs), (float(low), float(high)), len(pairs))


def reach(runs: Collection[Run], score: float) -> Reach:
    """Median steps and seconds until the first evaluation within a hundredth of a score.

    Args:
        runs: one or more runs of a rule; those that never reach the score count as infinite in the median.
        score: in points.
    """
    target = score - (1 - NEAR) * abs(score)
    never = {"step": math.inf, "seconds": math.inf}
    firsts = [next((point for point in run.evaluations if 100 * point["score"] >= target), never) for run in runs]
    steps, seconds = (median(first[key] for first in firsts) for key in ("step", "seconds"))
    return Reach(steps, seconds, sum(first is not never for first in firsts), len(firsts))


def conflict_share(run: Run) -> float | None:
    """The share of measurements with a negative inner product of the gradients; None without measurements."""
    shares = logged(run, "lambda_conflict") or [float(cosine < 0) for cosine in logged(run, "grad_cosine")]
    return fmean(shares) if shares else None


def mean_lambda(*runs: Run) -> float | None:
    """The geometric mean over runs of each run's mean of λ > 0; 0 if λ was never above 0, None if none was logged."""
    means = [_geometric(logged(run, "lambda")) for run in runs]
    return _geometric([mean for mean in means if mean is not None])


def _geometric(values: Sequence[float]) -> float | None:
    positive = [value for value in values if value > 0]
    return geometric_mean(positive) if positive else 0.0 if values else None


def logged(run: Run, key: str) -> list[float]:
    """The finite values of a key of the log."""
    return [entry[key] for entry in run.log if key in entry and math.isfinite(entry[key])]
