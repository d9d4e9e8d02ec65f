"""Which scores of a comparison differ by more than chance: seeds, and the examples that they are of."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from hf_kd_lambda.studies.comparison import merit
from hf_kd_lambda.studies.comparison.merit import Group
from hf_kd_lambda.studies.comparison.run_results import Run, finished

ERRORS = 2.0  # standard errors, within which a difference is called noise


class MeanScore(NamedTuple):
    """The score of a rule in a group, in points.

    Attributes:
        mean: over seeds.
        interval: bootstrap interval over seeds; None for one seed.
        error: standard error of the mean, from seeds and test examples; 0 where neither is known.
        seeds: number of them.
    """

    mean: float
    interval: tuple[float, float] | None
    error: float
    seeds: int


def score_of(runs: Sequence[Run], group: Group, rule: str) -> MeanScore | None:
    """The score of a rule in a group; None where no run of it finished.

    The seeds share their test examples, so that more seeds do not lessen the error that comes from these.
    """
    ours = list(merit.of_rule(runs, group, rule).values())
    found = merit.difference([merit.points(run) for run in ours])
    if found is None:
        return None
    over_seeds = stdev(map(merit.points, ours)) / math.sqrt(len(ours)) if len(ours) > 1 else 0.0
    return MeanScore(found.mean, found.interval, math.hypot(over_seeds, error_over_examples(ours) or 0.0), len(ours))


def error_over_examples(runs: Sequence[Run]) -> float | None:
    """Standard error of one score over test examples, in points, the mean of runs; None where it was not recorded."""
    errors = [100 * run.standard_error for run in finished(runs) if run.standard_error is not None]
    return fmean(errors) if errors else None


def number_of_examples(runs: Sequence[Run]) -> int | None:
    """How many examples the scores of a group are of; None where that was not recorded."""
    return next((run.examples for run in runs if run.examples is not None), None)


def within_noise(scores: dict[str, MeanScore]) -> list[str]:
    """The rules at most `ERRORS` standard errors, the larger of both, below the best one, which comes first.

    Args:
        scores: scores of a group, by rule.
    """
    order = sorted(scores, key=lambda rule: -scores[rule].mean)
    best = scores[order[0]]
    return [rule for rule in order if best.mean - scores[rule].mean <= ERRORS * max(best.error, scores[rule].error)]
