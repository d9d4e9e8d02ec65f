"""The runs of a comparison: read from YAML, and all checked before the first run."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from hf_kd_lambda.data.arguments import SINGLE_LABEL, DataArguments
from hf_kd_lambda.jobs.arguments import ModelArguments
from hf_kd_lambda.jobs.command_line import list_settings
from hf_kd_lambda.jobs.parser import Settings, parse
from hf_kd_lambda.jobs.yaml_file import YamlFile
from hf_kd_lambda.studies.comparison.regimes import LEARNED_BY_TEACHER, REGIMES
from hf_kd_lambda.studies.comparison.run_results import Cell
from hf_kd_lambda.trainer.config import DistillationConfig
from hf_kd_lambda.utils.names import check_known

Mappings = dict[str, dict[str, Any]]

GLUE = "nyu-mll/glue"
_LISTS = {
    name
    for group in (ModelArguments, DataArguments, DistillationConfig)
    for name in list_settings(get_type_hints(group))
}
"""Settings that take a list, and no text."""
ONE_ITEM = ("text-classification", "image-classification")  # tasks whose examples are one item each
# Settings that a comparison fixes for all its runs.
OWN = {
    "eval_strategy": "steps",
    "logging_strategy": "steps",
    "logging_first_step": False,
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "report_to": "none",
    "disable_tqdm": True,
    "push_to_hub": False,
    "early_stopping_patience": None,
}


@dataclass(frozen=True)
class Comparison:
    """Rules × seeds × regimes × tasks on one set of settings.

    All settings are those of `distill`. The rule's settings override those of the regime, which override those of the
    task.

    Args:
        output_dir: folder of results.jsonl, the report and the fine-tuned teachers.
        tasks: settings by the name of the task, which you choose; tasks with the same `teacher_dir` share a teacher.
        rules: settings of `DistillationConfig` by the name of the rule, which you choose; those with
            `lambda_rule: fixed` are the sweep that the others are compared with.
        regimes: names of `REGIMES` with settings for the regime, such as more epochs if there are few examples.
        settings: settings of every run.
        skipped: regimes to leave out, by the name of the task.
        seeds: for the order of the examples, dropout and the regime's random changes.
        evaluations: number in each run, evenly spaced.
        logs: number in each run of logs of λ and gradients, evenly spaced.
        glue: folder that replaces `nyu-mll/glue` of the Hub.

    Raises:
        ValueError: a name is unknown, or settings are missing or do not fit each other.
    """

    output_dir: str
    tasks: Mappings
    rules: Mappings
    regimes: Mappings = field(default_factory=lambda: {"clean": {}})
    settings: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    evaluations: int = 10
    logs: int = 50
    glue: str | None = None

    def __post_init__(self) -> None:
        for name in ("tasks", "rules", "regimes", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: a comparison needs at least one.")
        for name in self.regimes:
            check_known(name, REGIMES, "regime")
        for task, regimes in self.skipped.items():
            check_known(task, self.tasks, "task in skipped")
            for name in regimes:
                check_known(name, REGIMES, f"regime skipped in {task}:")
        for name in ("evaluations", "logs"):
            if not isinstance(value := getattr(self, name), int) or value < 2:
                raise ValueError(f"{name}={value!r} must be an integer of at least 2.")
        of_a_run = [setting.name for setting in fields(DistillationConfig)]
        for part, mappings in (("rules", self.rules), ("regimes", self.regimes)):
            for name, given in mappings.items():
                for setting in given:
                    check_known(setting, of_a_run, f"setting of one run in {part}, {name}:")
        for task, regime, rule, seed in self.cells():
            if seed == self.seeds[0]:
                try:
                    models, data, _ = self.parse(task, regime, rule)
                    _require_own_teacher(regime, models)
                    _require_one_label(regime, data)
                except ValueError as error:
                    raise ValueError(f"{task}, {regime}, {rule}: {error}") from None

    def cells(self) -> list[Cell]:
        """All runs in the order in which they are made.

        The seed changes last, so that an interrupted comparison has complete seeds. The rule changes first, so that a
        slow period of the machine affects all rules.
        """
        return [
            Cell(task, regime, rule, seed)
            for seed in self.seeds
            for task in self.tasks
            for regime in self.regimes
            if regime not in self.skipped.get(task, [])
            for rule in self.rules
        ]

    def parse(self, task: str, regime: str | None = None, rule: str | None = None) -> Settings:
        """The settings of a task, or of its runs under a rule in a regime.

        Raises:
            ValueError: a setting is wrong, or one that the comparison fixes for all its runs.
        """
        folder = Path(self.output_dir)
        fixed = {"eval_steps": 1 / self.evaluations, "logging_steps": 1 / self.logs, "output_dir": str(folder / "run")}
        fixed |= OWN
        settings = {**self.settings, **self.tasks[task]}
        settings |= self.regimes[regime] if regime else {}
        settings |= self.rules[rule] if rule else {}
        if refused := [name for name in sorted(settings.keys() & fixed) if settings[name] not in (None, fixed[name])]:
            raise ValueError(
                f"{', '.join(refused)}: leave this out. A comparison evaluates and logs each run as often as "
                "evaluations and logs say, and scores its last student."
            )
        if settings.get("dataset") == GLUE and self.glue is not None:
            settings["dataset"] = self.glue
        settings = {"teacher_dir": str(folder / "teachers" / task), **settings, **fixed}
        return parse(arguments(settings))

    def in_folder(self, output_dir: str | None) -> "Comparison":
        """The same comparison in another folder; None keeps its own."""
        return replace(self, output_dir=output_dir or self.output_dir)

    def restricted_to(
        self,
        tasks: Collection[str] | None = None,
        regimes: Collection[str] | None = None,
        rules: Collection[str] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> "Comparison":
        """The part of it with these names; None keeps all.

        Raises:
            ValueError: it has no such name.
        """
        kept: dict[str, Any] = {}
        for name, chosen in (("tasks", tasks), ("regimes", regimes), ("rules", rules)):
            known: Mappings = getattr(self, name)
            for member in chosen or ():
                check_known(member, known, name.removesuffix("s"))
            kept[name] = {member: known[member] for member in (known if chosen is None else chosen)}
        skipped = {task: names for task, names in self.skipped.items() if task in kept["tasks"]}
        return replace(self, **kept, skipped=skipped, seeds=tuple(self.seeds if seeds is None else seeds))


def _require_own_teacher(regime: str, models: ModelArguments) -> None:
    if regime in LEARNED_BY_TEACHER and not models.teacher_finetune:
        raise ValueError(f"the regime {regime} fine-tunes a teacher on noisy labels: set teacher_finetune to true.")


def _require_one_label(regime: str, data: DataArguments) -> None:
    """Refuse tasks with several items per example, and regimes that change labels if these are not one class."""
    if data.problem not in ONE_ITEM:
        raise ValueError(f"problem={data.problem!r} cannot be compared, only {' and '.join(ONE_ITEM)}.")
    for setting in ("unlabelled_file", "unlabelled_dataset", "problem_type"):
        if (value := getattr(data, setting)) not in (None, SINGLE_LABEL) and regime != "clean":
            raise ValueError(f"{setting}={value!r} is for the regime clean: others need one label for each example.")


def load_comparison(file: Path, glue: str | None = None) -> Comparison:
    """Read a comparison.

    Args:
        file: YAML, whose keys are the arguments of `Comparison`.
        glue: see `Comparison`.

    Raises:
        ValueError: the file does not exist or is not such a YAML file, or see `Comparison`.
    """
    parts = YamlFile(file)
    content = {name: parts.value(node) for name, node in parts.items}
    known = [part.name for part in fields(Comparison) if part.name != "glue"]
    for name in content:
        check_known(name, known, f"part of {file}:")
    if missing := {"output_dir", "tasks", "rules"} - content.keys():
        raise ValueError(f"{file} lacks {', '.join(sorted(missing))}: add them.")
    if not isinstance(content["output_dir"], str):
        raise ValueError(f"output_dir: YAML reads {content['output_dir']!r} as no text: write it in quotes.")
    content["settings"] = _mapping("settings", content.get("settings"))
    content["skipped"] = _mapping("skipped", content.get("skipped"))
    for name in ("tasks", "rules", "regimes"):
        members = _mapping(name, content.get(name, {"clean": {}}))
        content[name] = {member: _mapping(f"{name}, {member}", settings) for member, settings in members.items()}
    of_tasks = {f"skipped, {task}": names for task, names in content["skipped"].items()}
    for name, members in ({"seeds": content.get("seeds", [])} | of_tasks).items():
        if not isinstance(members, list):
            raise ValueError(f"{name}: {members!r} must be a list, such as [{members}].")
    if "seeds" in content:
        content["seeds"] = tuple(content["seeds"])
    return Comparison(**content, glue=glue)


def _mapping(name: str, value: Any) -> dict[str, Any]:
    """A part of a comparison; nothing is an empty mapping.

    Raises:
        ValueError: it is something else, or YAML reads a name in it as a number or a truth value.
    """
    if not isinstance(value, dict | None):
        raise ValueError(f"{name}: {value!r} must be a mapping: write `name:` on each line, and settings below it.")
    for member in value or {}:
        if not isinstance(member, str):
            raise ValueError(f"{name}: YAML reads the name {member!r} as no text: write it in quotes.")
    return dict(value or {})


def arguments(settings: Mapping[str, Any]) -> list[str]:
    """Settings as command-line arguments of `distill`; those that are None keep their defaults."""
    line = []
    for name, value in settings.items():
        if value is None:
            continue
        if isinstance(value, list) and name in _LISTS:
            line += [f"--{name}", *map(str, value)]
        else:
            line += [f"--{name}", json.dumps(value) if isinstance(value, dict) else _as_text(value)]
    return line


def _as_text(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)
