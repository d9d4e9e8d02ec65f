"""Whether the runs of a group are comparable: with the same settings, apart from those of their rules."""

from collections.abc import Iterable, Sequence
from itertools import combinations, product
from pathlib import Path

from hf_kd_lambda.jobs.identity import differences
from hf_kd_lambda.studies.comparison.merit import Group, group_of, groups, of_rule, rules
from hf_kd_lambda.studies.comparison.run_results import Run, finished

MAY_DIFFER = {"seed", "precision"}  # machines differ in precision: the report says which runs had which


def check_comparable(file: Path, runs: Sequence[Run], begun: Sequence[Run] = ()) -> None:
    """Refuse runs of the same task and regime that differ in more than rule, seed and precision.

    Args:
        file: results.jsonl.
        runs: those in it.
        begun: records of runs that are to be joined with them.

    Raises:
        ValueError: the settings of two runs differ.
    """
    for group in groups([*runs, *begun]):
        earlier = [run for run in finished(runs) if group_of(run) == group]
        now = [run for run in begun if group_of(run) == group]
        for run, other in (*combinations(earlier, 2), *product(earlier, now)):
            if not (names := _differing(run, other)):
                continue
            whose = "this command has" if other in now else f"{_named(other)} has"
            raise ValueError(
                f"output_dir: {file} has {_named(run)} with {_values(run, names)}, but {whose} "
                f"{_values(other, names)}: choose another output_dir, or remove the lines of one."
            )


def _differing(run: Run, other: Run) -> list[str]:
    """The settings in which two runs differ; one that is not recorded has its default, or counts as the same."""
    of_rules = set() if run.rule == other.rule else run.rule_parameters.keys() | other.rule_parameters.keys()
    changed = differences(run.settings, other.settings) & differences(other.settings, run.settings)
    return sorted(changed - of_rules - MAY_DIFFER)


def _named(run: Run) -> str:
    return ", ".join(map(str, run.cell))


def _values(run: Run, names: Iterable[str]) -> str:
    return ", ".join(f"{name}: {run.settings.get(name, 'its default')}" for name in names)


def by_precision(runs: Sequence[Run], group: Group) -> dict[str, dict[str, list[int]]]:
    """The seeds of each rule's finished runs in a group, by precision, that of most runs first."""
    found: dict[str, dict[str, list[int]]] = {}
    for rule in rules(runs):
        for seed, run in sorted(of_rule(runs, group, rule).items()):
            precision = str(run.settings.get("precision", "unknown"))
            found.setdefault(precision, {}).setdefault(rule, []).append(seed)
    return dict(sorted(found.items(), key=lambda item: -sum(map(len, item[1].values()))))
