"""The tables of a comparison's report: text, and values to sort by."""

import json
import math
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import Any

from hf_kd_lambda.reports.page import NONE, Entry, Table, text_entry
from hf_kd_lambda.reports.results import BETTER_TEACHER
from hf_kd_lambda.studies.comparison import merit
from hf_kd_lambda.studies.comparison.merit import Group
from hf_kd_lambda.studies.comparison.noise import (
    ERRORS,
    MeanScore,
    error_over_examples,
    number_of_examples,
    score_of,
    within_noise,
)
from hf_kd_lambda.studies.comparison.regimes import LEARNED_BY_TEACHER, clean
from hf_kd_lambda.studies.comparison.run_results import Run, finished

TUNED = "the best at the other seeds"


def scores_table(runs: Sequence[Run]) -> Table:
    """A row for each rule, a column for each group: the mean score with its interval over seeds; bold: the highest."""
    groups = named_groups(runs)
    scores = [scores_of(runs, group) for group in groups.values()]
    highest = [max(score.mean for score in found.values()) for found in scores]
    rows = [
        [
            text_entry(rule),
            *(_score(found.get(rule), high) for found, high in zip(scores, highest, strict=True)),
        ]
        for rule in merit.rules(runs)
    ]
    teachers = [teacher_points(runs, group) for group in groups.values()]
    rows += [[text_entry("(teacher)"), *(_number(score, ".2f") for score in teachers)]] if any(teachers) else []
    return Table(["rule", *groups], rows)


def named_groups(runs: Sequence[Run]) -> dict[str, Group]:
    """Groups with finished runs, by name: the task alone if all their examples are unchanged."""
    groups = merit.groups(finished(runs))
    are_clean = all(group.regime == clean.__name__ for group in groups)
    return {group.task if are_clean else str(group): group for group in groups}


def teacher_points(runs: Sequence[Run], group: Group) -> float | None:
    """The mean of the teachers' scores in a group, in points; None where it was not recorded."""
    score = mean(run.teacher_score for run in runs if merit.group_of(run) == group)
    return None if score is None else 100 * score


def weak_teachers(runs: Sequence[Run]) -> list[str]:
    """A sentence if teachers score below students by more than noise; else none.

    Those of a regime that gives them noisy labels are left out: they are meant to be worse.
    """
    groups = {name: group for name, group in named_groups(runs).items() if group.regime not in LEARNED_BY_TEACHER}
    weak = [name for name, group in groups.items() if _is_weak(runs, group)]
    finetuned = any(run.settings.get("teacher_finetune") for run in runs)
    advice = BETTER_TEACHER if finetuned else "A better teacher would help more."
    return [f"The teacher scores below the best students in: {'; '.join(weak)}. {advice}"] if weak else []


def _is_weak(runs: Sequence[Run], group: Group) -> bool:
    best, teacher = max(scores_of(runs, group).values(), key=lambda score: score.mean), teacher_points(runs, group)
    return teacher is not None and best.mean - teacher > ERRORS * best.error > 0


def undecided(runs: Sequence[Run]) -> list[str]:
    """Sentences on groups in which all rules are within noise; none without such groups."""
    scores = {name: scores_of(runs, group) for name, group in named_groups(runs).items()}
    level = [name for name, found in scores.items() if len(within_noise(found)) == len(found) > 1]
    words = (
        f"All rules are within noise in: {'; '.join(level)}. On these examples the teacher and λ made no measurable "
        "difference. More test examples (test_file, or a higher validation_share) may show one, then more seeds."
    )
    return [words] if level else []


def noise_table(runs: Sequence[Run]) -> Table:
    """A row for each group: how many examples its scores are of, their standard error, and which rules are level."""
    rows = []
    for name, group in named_groups(runs).items():
        ours = [run for run in runs if merit.group_of(run) == group]
        level = within_noise(scores_of(runs, group))
        error = error_over_examples(ours)
        rows.append(
            [
                text_entry(name),
                _number(number_of_examples(ours), ","),
                _number(error, ".2f"),
                text_entry(level[0]),
                Entry() if error is None else text_entry(", ".join(level[1:]) or "none"),
            ]
        )
    head = ["task, regime", "test examples", "standard error of a score", "highest score", "within noise of it"]
    return Table(head, rows)


def scores_of(runs: Sequence[Run], group: Group) -> dict[str, MeanScore]:
    """The score of each rule in a group."""
    found = {rule: score_of(runs, group, rule) for rule in merit.rules(runs)}
    return {rule: score for rule, score in found.items() if score is not None}


def _score(score: MeanScore | None, highest: float) -> Entry:
    if score is None:
        return Entry()
    interval = " [{:.2f}, {:.2f}]".format(*score.interval) if score.interval else ""
    return Entry(f"{score.mean:.2f}{interval}", score.mean, strong=math.isclose(score.mean, highest))


def regret_table(runs: Sequence[Run]) -> Table:
    """A row for each rule, sorted by mean regret: regret, and the cost of the sweep relative to one run."""
    rows = [_regret_row(runs, rule) for rule in merit.rules(runs)]
    rows.sort(key=lambda row: math.inf if row[1].value is None else float(row[1].value))
    head = ["rule", "mean regret", "worst regret", "worst in", "tasks × regimes", "runs", "sweep cost", "pairs"]
    return Table(head, rows)


def _regret_row(runs: Sequence[Run], rule: str) -> list[Entry]:
    regrets = merit.regrets(runs, rule)
    mean = merit.difference([regret.points for regret in regrets.values()])
    worst = max(regrets, key=lambda group: regrets[group].points, default=None)
    cost = None if rule in merit.fixed_rules(runs) else merit.sweep_cost(runs, rule)
    return [
        text_entry(rule),
        _difference(mean),
        _number(regrets[worst].points, "+.2f") if worst else Entry(),
        Entry(str(worst), str(worst)) if worst else Entry(),
        _number(len(regrets)),
        _number(sum(regret.seeds for regret in regrets.values())),
        _number(cost.runs_of_rule, ".1f", "×") if cost else Entry(),
        _number(cost.pairs) if cost else Entry(),
    ]


def pooled_table(runs: Sequence[Run]) -> Table:
    """A row for each fixed rule and for a tuned one, a column for each other rule: mean differences over groups."""
    fixed = merit.fixed_rules(runs)
    others = [rule for rule in merit.rules(runs) if rule not in fixed]
    rows = []
    for rule in fixed:
        differences = [merit.difference(merit.pooled(runs, other, rule)) for other in others]
        rows.append([text_entry(rule), *(_difference(difference, with_pairs=True) for difference in differences)])
    tuned = [merit.difference(merit.against_tuned(runs, other)) for other in others]
    rows.append([Entry(TUNED, TUNED), *(_difference(difference, with_pairs=True) for difference in tuned)])
    return Table(["fixed rule", *others], rows)


def group_table(runs: Sequence[Run], group: Group) -> Table:
    """A row for each rule that finished in a group: score, difference to the best fixed rule, λ, and speed."""
    best = merit.best_fixed(runs, group)
    rows = [_group_row(runs, group, rule, best) for rule in merit.rules(runs) if merit.of_rule(runs, group, rule)]
    head = ["rule", "score", "seeds", "Δ to ★", "agreement", "λ", "conflict", "s / step"]
    return Table([*head, "steps to 99%", "÷ ★", "s to 99%", "÷ ★"], rows)


def _group_row(runs: Sequence[Run], group: Group, rule: str, best: dict[int, Run]) -> list[Entry]:
    by_seed = merit.of_rule(runs, group, rule)
    ours = list(by_seed.values())
    seeds = len({run.seed for run in runs})
    scores = [merit.points(run) for run in ours]
    spread = f" ± {stdev(scores):.2f}" if len(scores) > 1 else ""
    is_best = any(run.rule == rule for run in best.values())
    to_best = None if is_best else merit.difference(merit.paired(by_seed, best))
    return [
        Entry(f"{rule} ★" if is_best else rule, rule),
        Entry(f"{fmean(scores):.2f}{spread}", fmean(scores)),
        Entry(f"{len(ours)} of {seeds}" if len(ours) < seeds else str(seeds), len(ours)),
        _difference(to_best, with_pairs=True),
        _percent(mean(run.agreement for run in ours), ".1f"),
        _number(merit.mean_lambda(*ours), ".3g"),
        _percent(mean(map(merit.conflict_share, ours)), ".0f"),
        _number(mean(run.seconds / run.steps for run in ours if run.steps), ".3g"),
        *_reach(ours, list(best.values())),
    ]


def _reach(ours: Sequence[Run], best: Sequence[Run]) -> list[Entry]:
    """Steps and seconds to 99% of the best fixed rule's score, each with its ratio to that rule's."""
    if not best:
        return [Entry()] * 4
    score = merit.mean_points(best)
    reach, theirs = merit.reach(ours, score), merit.reach(best, score)
    part = f" ({reach.reached} of {reach.runs})" if reach.reached < reach.runs else ""
    entries = []
    same_speed = merit.same_speed([*ours, *best])
    steps, seconds = (reach.steps, theirs.steps, True), (reach.seconds, theirs.seconds, same_speed)
    for taken, reference, comparable in (steps, seconds):
        reached = math.isfinite(taken)
        entries.append(Entry((f"{taken:.4g}" if reached else NONE) + part, taken if reached else None))
        comparable = comparable and reached and math.isfinite(reference) and reference > 0
        entries.append(_number(taken / reference if comparable else None, ".2f", "×"))
    return entries


def failed_table(runs: Iterable[Run]) -> Table:
    """A row for each run that failed, with its error."""
    rows = [[*run.cell[:3], str(run.seed), run.error] for run in runs if run.error is not None]
    return Table(["task", "regime", "rule", "seed", "error"], [[Entry(text, text) for text in row] for row in rows])


def rules_table(runs: Sequence[Run]) -> Table:
    """The settings of each rule."""
    parameters = {run.rule: run.rule_parameters for run in runs}
    texts = {
        rule: ", ".join(f"{name}: {_json(value)}" for name, value in parameters[rule].items())
        for rule in merit.rules(runs)
    }
    return Table(["rule", "settings"], [[text_entry(rule), text_entry(text)] for rule, text in texts.items()])


def settings_table(runs: Sequence[Run]) -> Table:
    """The settings that are the same in all runs."""
    texts = [{name: _json(value) for name, value in run.settings.items()} for run in runs]
    common = set.intersection(*(set(text.items()) for text in texts)) if texts else set()
    return Table(["setting", "value"], [[Entry(text, text) for text in pair] for pair in sorted(common)])


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of all values that are not None; None if there are none."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _number(value: float | None, form: str = "", sign: str = "") -> Entry:
    return Entry() if value is None else Entry(f"{sign}{value:{form}}", value)


def _percent(share: float | None, form: str) -> Entry:
    return Entry() if share is None else Entry(f"{100 * share:{form}}%", share)


def _difference(difference: merit.Difference | None, with_pairs: bool = False) -> Entry:
    if difference is None:
        return Entry()
    text = f"{difference.mean:+.2f}"
    if difference.interval:
        text += " [{:+.2f}, {:+.2f}]".format(*difference.interval)
    return Entry(text + (f" ({difference.pairs})" if with_pairs else ""), difference.mean)
