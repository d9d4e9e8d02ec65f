"""The tables of measured results, generated from benchmarks/*/results.jsonl. `fill_tables.py` writes them."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean, median
from typing import Any

from docs_tables import markdown_table
from scipy.stats import ttest_1samp

from hf_kd_lambda.studies.comparison import merit
from hf_kd_lambda.studies.comparison.merit import Group
from hf_kd_lambda.studies.comparison.run_results import Run, is_fixed, read_runs

ROOT = Path(__file__).parents[1]
AT_BOUND = 0.999  # of |log10 λ|, which `lambda_min` 0.1 and `lambda_max` 10 keep within 1
TRANSFER_RULES = {"KD alone": "1, labels unused"}
BASE_RULES = ("no KD", "fixed 0.5", "fixed 0.9", "trust")
BASE_TASKS = {"sst2": "SST-2", "mrpc": "MRPC", "stsb": "STS-B"}
BASE_STUDENTS = {"minilm": "MiniLM, 6 layers", "3": "3 of its layers", "6": "6 of its layers"}
BASE_NAMES = {"teacher": "teacher, 12 layers", **dict(reversed(BASE_STUDENTS.items()))}
BASE_FORMS = ("fp32", "bf16", "ONNX", "ONNX int8")
WRONG = {
    "clean": "nothing",
    "overconfident_teacher": "the teacher is overconfident",
    "few_labels": "nothing, but there are only 600 examples",
    "few_labels_transfer": "nothing, but only 600 examples have a label",
    "noisy_labels": "30 % of the labels",
    "hard_noise": "the labels of the hardest 30 %",
    "noisy_teacher": "30 % of the labels, which the teacher learned",
    "spoiled_teacher": "the teacher on 40 %",
    "region": "the teacher on most long texts",
    "class_blind": "the teacher never predicts one class",
    "uninformative_teacher": "the teacher on all, at random",
    "both": "30 % of the labels, and the teacher on a different 30 %",
}
"""What is wrong in a regime of `compare_trust`, in the order of the table."""
NOISE_NAMES = {"symmetric": "any other class", "class": "the next class"}
REGIME_NAMES = {"noisy_labels": "label noise", "spoiled_teacher": "teacher noise"}
RULE_NAMES = {"no KD": "no KD", "annealing": "annealing, `linear`"}


def sst2_table() -> str:
    """Mean scores on SST-2 of fixed weights and of the default rule, by regime."""
    runs = _runs("compare")
    rules = ["no KD", "fixed 0.1", "fixed 0.5", "fixed 0.9", "evidence"]
    groups = [group for group in merit.groups(runs) if group.task == "sst2"]
    head = ["weight of the KD loss", *(_regime_name(group.regime) for group in groups)]
    rows = [[_rule_name(rule), *(_score(runs, group, rule) for group in groups)] for rule in rules]
    return markdown_table(head, rows)


def regret_table() -> str:
    """Mean and worst regret of each rule over all tasks and regimes, sorted by the mean."""
    runs = _first_runs()
    regrets = {rule: merit.regrets(runs, rule) for rule in merit.rules(runs)}
    means = {rule: fmean(regret.points for regret in found.values()) for rule, found in regrets.items()}
    rows = []
    for rule in sorted(means, key=lambda rule: means[rule]):
        worst, regret = max(regrets[rule].items(), key=lambda item: item[1].points)
        where = f"{worst.task}, {_regime_name(worst.regime)}"
        rows.append((_rule_name(rule), f"{means[rule]:.2f}", f"{regret.points:.2f}", where))
    return markdown_table(("rule", "mean regret", "worst regret", "worst in"), rows)


def regret_facts_table() -> str:
    """More numbers about `evidence` from the same runs."""
    runs = _first_runs()
    groups = merit.groups(runs)
    without_mrpc = [run for run in runs if run.task != "mrpc"]
    means = {
        rule: fmean(regret.points for regret in merit.regrets(without_mrpc, rule).values())
        for rule in ("evidence", "adaptive", "fixed 0.5")
    }
    at_bound = sum(_ends_at_bound(_runs_of(runs, group, "evidence")) for group in groups)
    reachable, faster = _faster_groups(runs, groups)
    rows = [
        (
            "score minus that of the weight tuned on the other seeds, 95 % interval over groups",
            _mean(merit.against_tuned(runs, "evidence")),
        ),
        (
            "mean regret without MRPC: `evidence`, `adaptive`, fixed 0.5",
            ", ".join(f"{mean:.2f}" for mean in means.values()),
        ),
        ("groups in which λ ends at `lambda_min` or `lambda_max`", f"{at_bound} of {len(groups)}"),
        (
            "groups in which 99 % of the best fixed score takes at most 0.8 of its steps",
            f"{faster} of {reachable} possible",
        ),
        *_odds_on_stsb(runs),
    ]
    return markdown_table(("`evidence` (scores and regrets in points)", "measured"), rows)


def regret_trust_table() -> str:
    """`trust` and two other rules in the groups of the same comparison that `trust` has, with its only seed."""
    rows = []
    known = {(merit.group_of(run), run.seed) for run in _runs("compare") if run.rule == "trust"}
    for rule in ("trust", "evidence", "adaptive"):
        ours = [run for run in _runs("compare") if run.rule == rule and (merit.group_of(run), run.seed) in known]
        runs = [*ours, *(run for run in _runs("compare") if is_fixed(run))]
        rows.append((_rule_name(rule), *_against_weights(runs, rule, _regime_name)))
    return markdown_table(("rule", *AGAINST_WEIGHTS), rows)


def kd_losses_table() -> str:
    """Mean scores with each KD loss alone, with clean labels."""
    runs = _runs("compare_variants")
    rules = ["no KD", "fixed 0.1", "fixed 0.5", "fixed 0.9", "adaptive", "evidence"]
    tasks = dict.fromkeys(run.task for run in runs)
    rows = [[task.replace("_", " "), *(_score(runs, Group(task, "clean"), rule) for rule in rules)] for task in tasks]
    return markdown_table(("task, KD loss", *map(_rule_name, rules)), rows)


def transfer_table() -> str:
    """Mean scores with and without unlabelled texts, and over how many seeds."""
    runs = _runs("compare_transfer")
    tasks = list(dict.fromkeys(run.task for run in runs))
    rows = []
    for regime, words in (("few_labels", "labelled texts alone"), ("few_labels_transfer", "unlabelled texts too")):
        for rule in ("no KD", "fixed 0.5", "evidence", "KD alone"):
            cells = [_runs_of(runs, Group(task, regime), rule) for task in tasks]
            if any(cells):
                scores = map(_score_and_seeds, cells)
                rows.append((words, TRANSFER_RULES.get(rule, _rule_name(rule)), *scores))
    return markdown_table(("training examples", "weight of the KD loss", *tasks), rows)


def mix_table() -> str:
    """Mean scores by the share of labelled texts in a batch, and over how many seeds."""
    runs = _runs("compare_mix")
    cells = {tuple(run.task.split(", ")): _runs_of(runs, merit.group_of(run), "fixed 0.5") for run in runs}
    tasks, shares = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
    rows = [[share, *(_score_and_seeds(cells.get((task, share), [])) for task in tasks)] for share in shares]
    return markdown_table(("labelled texts in a batch", *tasks), rows)


def frozen_table() -> str:
    """Mean scores with and without `freeze_embeddings`, and over how many seeds."""
    runs = _runs("compare_frozen")
    rows = []
    for task in dict.fromkeys(run.task.removesuffix(" frozen") for run in runs):
        for rule in merit.rules(runs):
            trained, frozen = (merit.of_rule(runs, Group(name, "clean"), rule) for name in (task, f"{task} frozen"))
            pairs = [(trained[seed], frozen[seed]) for seed in trained.keys() & frozen.keys()]
            if pairs:
                scores = [_score_and_seeds(list(found)) for found in zip(*pairs, strict=True)]
                rows.append((task, _rule_name(rule), *scores))
    return markdown_table(("task", "weight of the KD loss", "embeddings trained", "embeddings frozen"), rows)


def readme_table() -> str:
    """Mean scores of some fixed weights and of the default rule on SST-2, by what is wrong, over the same seeds.

    Regimes with two of these seeds or more are shown.
    """
    runs, rows = _runs("compare_trust"), []
    rules = ["no KD", "fixed 0.5", "fixed 0.9", "trust"]
    for regime, wrong in WRONG.items():
        of_rules = [merit.of_rule(runs, Group("sst2", regime), rule) for rule in rules]
        seeds = sorted(set.intersection(*map(set, of_rules)))
        if len(seeds) >= 2:
            scores = [merit.mean_points([found[seed] for seed in seeds]) for found in of_rules]
            rows.append([wrong, *(f"{score:.2f}" for score in scores), str(len(seeds))])
    return markdown_table(("what is wrong", *map(_rule_name, rules), "seeds"), rows)


def trust_table() -> str:
    """Mean scores of the fixed weights and of `trust` on SST-2, by what is wrong."""
    return _trust_table("compare_trust", [*merit.fixed_rules(_runs("compare_trust")), "trust"])


def epochs_table() -> str:
    """Mean scores after nine epochs."""
    return _trust_table("compare_epochs", merit.rules(_runs("compare_epochs")))


def trust_tasks_table() -> str:
    """Mean scores on other tasks than SST-2."""
    runs = [run for run in _runs("compare_trust") if run.task != "sst2"]
    rules = merit.rules(runs)
    rows = [
        [group.task, WRONG[group.regime], *(_score_and_seeds(_runs_of(runs, group, rule)) for rule in rules)]
        for group in merit.groups(runs)
    ]
    return markdown_table(("task", "what is wrong", *map(_rule_name, rules)), rows)


def _trust_table(comparison: str, rules: Sequence[str]) -> str:
    """The regimes in which any rule was run."""
    runs = _runs(comparison)
    rows = []
    for regime, wrong in WRONG.items():
        of_rules = [_runs_of(runs, Group("sst2", regime), rule) for rule in rules]
        if any(of_rules):
            rows.append([wrong, *map(_score_and_seeds, of_rules)])
    return markdown_table(("what is wrong", *map(_rule_name, rules)), rows)


def trust_facts_table() -> str:
    """How `trust` and `evidence` compare with a tuned weight, and with the best one of each regime."""
    runs = _runs("compare_trust")
    without_mrpc = [run for run in runs if run.task != "mrpc"]
    rows = []
    for name, rule, given in (
        ("`trust`", "trust", runs),
        ("`trust`, without MRPC", "trust", without_mrpc),
        ("`evidence`", "evidence", runs),
    ):
        rows.append((name, *_against_weights(given, rule, WRONG.__getitem__), _at_bounds(given, rule)))
    return markdown_table(("rule", *AGAINST_WEIGHTS, "λ ends at a bound"), rows)


AGAINST_WEIGHTS = ("score minus that of the weight tuned on the other seeds", "mean regret", "worst regret")


def _against_weights(runs: Sequence[Run], rule: str, name: Callable[[str], str]) -> tuple[str, str, str]:
    """The cells of `AGAINST_WEIGHTS`; `name` gives a regime's."""
    tuned, regrets = merit.against_tuned(runs, rule), merit.regrets(runs, rule)
    worst, regret = max(regrets.items(), key=lambda item: item[1].points)
    return (
        f"{_mean(tuned)}, {len(tuned)} tasks and regimes",
        f"{fmean(found.points for found in regrets.values()):+.2f}, {len(regrets)} tasks and regimes",
        f"{regret.points:+.2f}, {worst.task}, {name(worst.regime)}",
    )


def _at_bounds(runs: Sequence[Run], rule: str) -> str:
    """In how many of the groups with this rule λ ends at `lambda_min` or `lambda_max`."""
    of_groups = [found for group in merit.groups(runs) if (found := _runs_of(runs, group, rule))]
    return f"in {sum(map(_ends_at_bound, of_groups))} of {len(of_groups)}"


def control_table() -> str:
    """Tuned weights that were run again where `trust` was run: their scores on both machines, and that of `trust`."""
    runs, controls = _runs("compare_trust"), _runs("trust_control")
    rows, shifts, gains = [], [], []
    for regime, wrong in WRONG.items():
        group = Group("sst2", regime)
        again = {run.seed: run for run in controls if merit.group_of(run) == group}
        if again:
            first = {seed: merit.of_rule(runs, group, run.rule)[seed] for seed, run in again.items()}
            trust = {seed: run for seed, run in merit.of_rule(runs, group, "trust").items() if seed in again}
            weights = " or ".join(sorted({_rule_name(run.rule) for run in again.values()}))
            rows.append([wrong, weights, *(_score_and_seeds(list(found.values())) for found in (first, again, trust))])
            shifts.append(fmean(merit.paired(again, first)))
            gains.append(fmean(merit.paired(trust, again)))
    head = ("what is wrong", "tuned weight", "its score on Intel", "its score on AMD", "`trust` on AMD")
    means = f"the weights on AMD minus those on Intel {_mean(shifts)}; `trust` minus the weights on AMD {_mean(gains)}"
    return f"{markdown_table(head, rows)}\nMeans over the {len(rows)} rows, in points: {means}.\n"


def label_errors_table() -> str:
    """Areas under the ROC curve and estimated shares of wrong labels, where `trust` was run."""
    by_cell = {(line["data"], line["kind"], line["rate"], line["method"]): line for line in _lines("label_errors")}
    rows = []
    for data, kind, rate, method in by_cell:
        if method == "trust":
            both = [by_cell[data, kind, rate, method] for method in ("cleanlab", "trust")]
            areas = (f"{line['auc']:.3f}" for line in both)
            shares = (f"{line['share']:.0%}" for line in both)
            rows.append((data, NOISE_NAMES[kind], rate, f"{both[0]['wrong']:.0%}", *areas, *shares))
    head = ("data", "noise", "labels changed", "cleanlab: area", "`trust`: area", "cleanlab: share", "`trust`: share")
    return markdown_table(head, ((*row[:2], *row[3:]) for row in sorted(rows)))


def judging_students_table() -> str:
    """The same areas by the predictions of the student that judged the labels."""
    rows = []
    for line in _lines("label_errors"):
        if line["method"] == "trust":
            areas = {**line["judged_by"], "finished student": line["auc"]}
            found = [f"{area:.3f}" for area in areas.values()]
            rows.append((line["data"], NOISE_NAMES[line["kind"]], line["rate"], f"{line['wrong']:.0%}", *found))
    body = [(*row[:2], *row[3:]) for row in sorted(rows)]
    return markdown_table(("data", "noise", "labels changed", *areas), body)


def memorised_labels_table() -> str:
    """How many labels look wrong, and how far teacher and student agree with training and validation labels."""
    rows = []
    for line in _lines("memorised_labels"):
        agree = {
            found["model"]: f"{found['training']:.0%} / {found['validation']:.0%}" for found in line["agreements"]
        }
        memorised = [found["model"] for found in line["agreements"] if found["has_memorised"]]
        labels = f"{line['rate']:.0%} wrong" if line["rate"] else "as they are"
        share, memorised_by = f"{line['wrong_labels']:.0%}", ", ".join(memorised) or "no"
        rows.append((labels, str(line["teacher_epochs"]), share, agree["teacher"], agree["student"], memorised_by))
    head = ("labels", "epochs of the teacher", "look wrong", "the teacher agrees", "the student agrees", "memorised")
    return markdown_table(head, rows)


def variants_table() -> str:
    """Mean scores of `trust` and of its variants, and over how many seeds."""
    scores: dict[tuple[str, str], dict[str, list[float]]] = {}
    for line in _lines("trust_variants"):
        scores.setdefault((line["config"], line["regime"]), {}).setdefault(line["variant"], []).append(line["score"])
    variants = sorted({variant for found in scores.values() for variant in found})
    rows = []
    for config, regime in sorted(scores, key=lambda cell: (cell[0] == "compare_epochs", [*WRONG].index(cell[1]))):
        trust = _runs_of(_runs(config), Group("sst2", regime), "trust")
        found = [scores[config, regime].get(variant, []) for variant in variants]
        means = [f"{100 * fmean(values):.2f} ({len(values)})" if values else "–" for values in found]
        epochs = ", 9 epochs" if config == "compare_epochs" else ""
        rows.append((WRONG[regime] + epochs, _score_and_seeds(trust), *means))
    return markdown_table(("what is wrong", "`trust`", *variants), rows)


def machines_table() -> str:
    """On which machines the runs of each seed were made, with the fixed weights and with `trust`."""
    runs = _runs("compare_trust")
    rows = []
    for group in sorted(merit.groups(runs), key=lambda group: (group.task != "sst2", [*WRONG].index(group.regime))):
        fixed = [run for rule in merit.fixed_rules(runs) for run in _runs_of(runs, group, rule)]
        machines = map(_machines, (fixed, _runs_of(runs, group, "trust")))
        rows.append((group.task, WRONG[group.regime], *machines))
    return markdown_table(("task", "what is wrong", "fixed weights", "`trust`"), rows)


def _machines(runs: Sequence[Run]) -> str:
    """The machine of each seed, or all machines that made runs of it."""
    by_seed: dict[int, set[str]] = {}
    for run in runs:
        by_seed.setdefault(run.seed, set()).add(_machine(run))
    return ", ".join("/".join(sorted(by_seed[seed])) for seed in sorted(by_seed))


def _machine(run: Run) -> str:
    if "AMX" in run.hardware.upper():
        return "A"
    return "B" if "AMD" in run.hardware else "C"


def known_truth_table() -> str:
    """Mean scores of the best fixed weight, of `trust`, and of `trust` that knows what is right; the same seeds."""
    runs, rows = _runs("compare_trust"), []
    known: dict[Group, dict[int, float]] = {}
    for line in _lines("known_truth"):
        known.setdefault(Group(line["task"], line["regime"]), {})[line["seed"]] = 100 * line["score"]
    for group, scores in known.items():
        best, trust = merit.best_fixed(runs, group), merit.of_rule(runs, group, "trust")
        seeds = sorted(scores.keys() & best.keys() & trust.keys())
        of_rules = [_score_and_seeds([found[seed] for seed in seeds]) for found in (best, trust)]
        rows.append((group.task, WRONG[group.regime], *of_rules, f"{fmean(scores[seed] for seed in seeds):.2f}"))
    return markdown_table(("task", "what is wrong", "best fixed weight", "`trust`", "`trust` that knows"), rows)


def base_table() -> str:
    """Scores of the students of a teacher of BERT-base's size, and the share of its score that `trust` retains."""
    runs = _runs("base")
    head = ["task", "student", *map(_rule_name, BASE_RULES), "retained", "minutes of training", "seeds"]
    rows = []
    for task, teacher in _base_teachers(runs).items():
        title = BASE_TASKS[task]
        rows.append([title, "the teacher itself", *[f"{100 * teacher:.2f}"] * len(BASE_RULES), "100 %", "", ""])
        for student, name in BASE_STUDENTS.items():
            group = Group(f"{task}_{student}", "clean")
            if any(_runs_of(runs, group, rule) for rule in BASE_RULES):
                rows.append([title, name, *_base_cells(runs, group, teacher)])
    return markdown_table(head, rows) + _base_missing(runs)


def _base_teachers(runs: Sequence[Run]) -> dict[str, float]:
    """The teacher's score on each task that has been run."""
    scores = {run.task.partition("_")[0]: run.teacher_score for run in runs if run.teacher_score is not None}
    return {task: scores[task] for task in BASE_TASKS if task in scores}


def _base_cells(runs: Sequence[Run], group: Group, teacher: float) -> list[str]:
    by_rule = [_runs_of(runs, group, rule) for rule in BASE_RULES]
    scores = [f"{merit.mean_points(found):.2f}" if found else "–" for found in by_rule]
    trust, every = by_rule[-1], [run for found in by_rule for run in found]
    retained = f"{merit.mean_points(trust) / teacher:.1f} %" if trust else "–"
    seeds = sorted({len(found) for found in by_rule})
    return [
        *scores,
        retained,
        f"{median(run.seconds for run in every) / 60:.1f}",
        str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}",
    ]


def _base_missing(runs: Sequence[Run]) -> str:
    """What has not been run with seed 0: the tasks and students, with the weights where only some are missing."""
    missing = []
    for task, title in BASE_TASKS.items():
        for student, name in BASE_STUDENTS.items():
            group = Group(f"{task}_{student}", "clean")
            rules = [rule for rule in BASE_RULES if not _runs_of(runs, group, rule)]
            if rules:
                part = "" if len(rules) == len(BASE_RULES) else f" ({', '.join(rules)})"
                missing.append(f"{title} {name}{part}")
    return f"\nNot run yet: {'; '.join(missing)}.\n" if missing else ""


def base_forms_table() -> str:
    """Parameters, size and relative latency of the models in each form, and what the cache saves of a step."""
    models = _base_models()
    head = ["model", "parameters, M", "MB", "MB in int8", *(f"time, {form}" for form in BASE_FORMS)]
    rows = [[title, *_form_cells(models[name], models["teacher"])] for name, title in BASE_NAMES.items()]
    return markdown_table([*head, "cached / online step"], rows)


def base_summary_table() -> str:
    """Size, speed and scores of the teacher of BERT-base's size and of its students, on tasks with runs of `trust`."""
    runs, models = _runs("base"), _base_models()
    teachers = _base_teachers([run for run in runs if run.rule == "trust"])
    rows = []
    for name, title in BASE_NAMES.items():
        own = models[name]["forms"]["fp32"]
        time = own["batch_latency_ms"] / models["teacher"]["forms"]["fp32"]["batch_latency_ms"]
        if name == "teacher":
            scores = [f"{100 * teacher:.1f}" for teacher in teachers.values()]
        else:
            scores = [_base_summary_cell(runs, f"{task}_{name}", teacher) for task, teacher in teachers.items()]
        rows.append([title, f"{own['parameters'] / 1e6:.0f} M", f"{time:.2f}", *scores])
    return markdown_table(["model", "parameters", "time", *map(BASE_TASKS.__getitem__, teachers)], rows)


def _base_summary_cell(runs: Sequence[Run], task: str, teacher: float) -> str:
    """The score of a student without KD and with `trust`, and the share of the teacher's that it retains."""
    group = Group(task, "clean")
    without, trust = (_runs_of(runs, group, rule) for rule in ("no KD", "trust"))
    if not (without and trust):
        return "–"
    with_kd = merit.mean_points(trust)
    return f"{merit.mean_points(without):.1f} → {with_kd:.1f} ({with_kd / teacher:.0f} %)"


def _base_models() -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "base" / "forms.json").read_text(encoding="utf-8"))["models"]


def _form_cells(model: Mapping[str, Any], teacher: Mapping[str, Any]) -> list[str]:
    forms = [model["forms"][form] for form in BASE_FORMS]
    own, whole = model["step_cpu_seconds"], model["step_cpu_seconds"] + teacher["step_cpu_seconds"]
    return [
        f"{forms[0]['parameters'] / 1e6:.1f}",
        f"{forms[0]['megabytes']:.0f}",
        f"{forms[-1]['megabytes']:.0f}",
        *(f"{form['batch_latency_ms'] / teacher['forms']['fp32']['batch_latency_ms']:.2f}" for form in forms),
        "" if model is teacher else f"{own / whole:.2f}",
    ]


TABLES: dict[str, Callable[[], str]] = {
    "base": base_table,
    "base_forms": base_forms_table,
    "base_summary": base_summary_table,
    "sst2": sst2_table,
    "regret": regret_table,
    "regret_facts": regret_facts_table,
    "regret_trust": regret_trust_table,
    "kd_losses": kd_losses_table,
    "transfer": transfer_table,
    "mix": mix_table,
    "frozen": frozen_table,
    "readme": readme_table,
    "trust": trust_table,
    "epochs": epochs_table,
    "trust_tasks": trust_tasks_table,
    "trust_facts": trust_facts_table,
    "control": control_table,
    "label_errors": label_errors_table,
    "judging_students": judging_students_table,
    "memorised_labels": memorised_labels_table,
    "variants": variants_table,
    "known_truth": known_truth_table,
    "machines": machines_table,
}


def _lines(folder: str) -> list[dict[str, Any]]:
    text = (ROOT / "benchmarks" / folder / "results.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@cache
def _runs(comparison: str) -> list[Run]:
    return read_runs(ROOT / "benchmarks" / comparison / "results.jsonl")


def _first_runs() -> list[Run]:
    """Of the comparison on four tasks, the runs before `trust`, which was added later, on another machine."""
    return [run for run in _runs("compare") if run.rule != "trust"]


def _runs_of(runs: Sequence[Run], group: Group, rule: str) -> list[Run]:
    return list(merit.of_rule(runs, group, rule).values())


def _score(runs: Sequence[Run], group: Group, rule: str) -> str:
    return f"{merit.mean_points(_runs_of(runs, group, rule)):.2f}"


def _regime_name(regime: str) -> str:
    return REGIME_NAMES.get(regime, regime.replace("_", " "))


def _score_and_seeds(runs: Sequence[Run]) -> str:
    return f"{merit.mean_points(runs):.2f} ({len(runs)})" if runs else "–"


def _mean(differences: Sequence[float]) -> str:
    """The mean of differences with two 95 % intervals: of the bootstrap, and Student's t, which is right for few."""
    found = merit.difference(differences)
    assert found is not None
    if found.interval is None:
        return f"{found.mean:+.2f}"
    student = ttest_1samp(differences, 0).confidence_interval()
    intervals = (f"[{low:+.2f}, {high:+.2f}]" for low, high in (found.interval, student))
    return f"{found.mean:+.2f} {', t: '.join(intervals)}"


def _rule_name(rule: str) -> str:
    if rule == "trust":
        return "set by `trust`, the default"
    if rule == "evidence":
        return "set by `evidence`"
    return rule if rule.startswith("fixed") else RULE_NAMES.get(rule, f"`{rule}`")


def _ends_at_bound(runs: Sequence[Run]) -> bool:
    return all(abs(math.log10(run.log[-1]["lambda"])) > AT_BOUND for run in runs)


def _faster_groups(runs: Sequence[Run], groups: Sequence[Group]) -> tuple[int, int]:
    """The numbers of groups in which a rule can be faster than the best fixed weight, and in which `evidence` is."""
    reachable = faster = 0
    for group in groups:
        best = list(merit.best_fixed(runs, group).values())
        score = merit.mean_points(best)
        steps = merit.reach(best, score).steps
        if steps > best[0].evaluations[0]["step"]:
            reachable += 1
            faster += merit.reach(_runs_of(runs, group, "evidence"), score).steps <= 0.8 * steps
    return reachable, faster


def _odds_on_stsb(runs: Sequence[Run]) -> list[tuple[str, str]]:
    rows = []
    for regime in ("clean", "spoiled_teacher"):
        found = _runs_of(runs, Group("stsb", regime), "evidence")
        odds, lambda_ = fmean(run.log[-1]["odds"] for run in found), merit.mean_lambda(*found)
        rows.append((f"STS-B, {_regime_name(regime)}: last odds, mean λ", f"{odds:.1f}, {lambda_:.1f}"))
    return rows
