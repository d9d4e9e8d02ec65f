from pathlib import Path

import pytest
import yaml

from hf_kd_lambda.jobs.parser import parse
from hf_kd_lambda.studies.comparison.plan import arguments, load_comparison
from hf_kd_lambda.studies.comparison.regimes import REGIMES

CONFIGS = Path(__file__).parents[3] / "configs"
SMALL = {
    "output_dir": "out",
    "tasks": {"films": {"teacher": "t", "student_layers": [0], "dataset": "nyu-mll/glue", "task": "sst2"}},
    "rules": {"half": {"lambda_rule": "fixed", "kd_weight": 0.5}, "adaptive": None},
}


def written(folder: Path, **changed: object) -> Path:
    file = folder / "comparison.yaml"
    file.write_text(yaml.safe_dump({**SMALL, **changed}, sort_keys=False))
    return file


def test_runs_go_through_the_rules_first_and_through_the_seeds_last(tmp_path):
    comparison = load_comparison(written(tmp_path, regimes={"clean": None, "few_labels": None}, seeds=[3, 5]))
    assert [(cell.seed, cell.regime, cell.rule) for cell in comparison.cells()] == [
        (seed, regime, rule) for seed in (3, 5) for regime in ("clean", "few_labels") for rule in ("half", "adaptive")
    ]


def test_the_rule_wins_over_the_regime_and_this_over_the_task(tmp_path):
    file = written(
        tmp_path,
        settings={"learning_rate": 1.0, "weight_decay": 1.0, "warmup_steps": 1, "seed": 1},
        tasks={"films": {**SMALL["tasks"]["films"], "weight_decay": 2.0, "warmup_steps": 2, "seed": 2}},
        regimes={"clean": {"warmup_steps": 3, "seed": 3}},
        rules={"half": {"lambda_rule": "fixed", "seed": 4}},
    )
    _, _, config = load_comparison(file).parse("films", "clean", "half")
    found = config.learning_rate, config.weight_decay, config.warmup_steps, config.seed
    assert found == (1.0, 2.0, 3, 4)


def test_tasks_may_share_a_teacher(tmp_path):
    of_own = SMALL["tasks"]["films"]
    file = written(tmp_path, tasks={"films": of_own, "hints": {**of_own, "teacher_dir": "out/teachers/films"}})
    folders = {load_comparison(file).parse(task)[0].teacher_dir for task in ("films", "hints")}
    assert folders == {"out/teachers/films"}


def test_each_run_is_evaluated_and_logged_as_often_as_the_comparison_says(tmp_path):
    _, _, config = load_comparison(written(tmp_path, evaluations=4, logs=20)).parse("films", "clean", "half")
    assert (config.eval_strategy, config.eval_steps, config.logging_steps) == ("steps", 0.25, 0.05)


def test_a_skipped_regime_is_left_out_of_its_task_alone(tmp_path):
    tasks = dict.fromkeys(("films", "books"), SMALL["tasks"]["films"])
    file = written(tmp_path, tasks=tasks, regimes={"clean": {}, "few_labels": {}}, skipped={"books": ["few_labels"]})
    found = {(cell.task, cell.regime) for cell in load_comparison(file).cells()}
    assert found == {("films", "clean"), ("films", "few_labels"), ("books", "clean")}


def test_a_part_of_a_comparison_has_the_runs_asked_for(tmp_path):
    comparison = load_comparison(written(tmp_path)).restricted_to(rules=["adaptive"], seeds=[7])
    assert comparison.cells() == [("films", "clean", "adaptive", 7)]


def test_a_folder_stands_in_for_glue_and_for_nothing_else(tmp_path):
    own = {**SMALL["tasks"]["films"], "dataset": "own/data"}
    comparison = load_comparison(written(tmp_path, tasks={**SMALL["tasks"], "own": own}), glue="glue_here")
    assert comparison.parse("films")[1].dataset == "glue_here"
    assert comparison.parse("own")[1].dataset == "own/data"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rulez": {}}, "unknown part of .*: 'rulez': did you mean 'rules'"),
        ({"rules": {}}, "rules is empty"),
        ({"seeds": []}, "seeds is empty"),
        ({"regimes": {"noisy_lables": None}}, "unknown regime 'noisy_lables': did you mean 'noisy_labels'"),
        ({"skipped": {"film": ["clean"]}}, "unknown task in skipped 'film': did you mean 'films'"),
        ({"skipped": {"films": ["dirty"]}}, "unknown regime skipped in films: 'dirty'"),
        ({"evaluations": 1}, "evaluations=1 must be an integer of at least 2"),
        ({"logs": "ten"}, "logs='ten' must be an integer of at least 2"),
        ({"output_dir": 5}, "output_dir: YAML reads 5 as no text: write it in quotes"),
        ({"settings": {"eval_steps": 9, "report_to": "wandb"}}, "films, clean, half: eval_steps, report_to: leave"),
        ({"rules": {"best": {"load_best_model_at_end": True}}}, "films, clean, best: load_best_model_at_end: leave"),
        ({"settings": {"output_dir": "elsewhere"}}, "films, clean, half: output_dir: leave this out"),
        ({"settings": {"early_stopping_patience": 2}}, "films, clean, half: early_stopping_patience: leave this out"),
        ({"glue": "here"}, "unknown part of .*: 'glue'"),
        ({"rules": {"deep": {"student_layers": [0, 1]}}}, "setting of one run in rules, deep: 'student_layers'"),
        (
            {"regimes": {"clean": {"max_length": 9}}},
            "setting of one run in regimes, clean: 'max_length'",
        ),
        ({"rules": {"odd": {"lambda_rule": "adaptiv"}}}, "films, clean, odd: .*did you mean 'adaptive'"),
        (
            {
                "tasks": {
                    "own": {
                        "teacher": "t",
                        "student_layers": [0],
                        "train_file": "a.json",
                        "problem": "question-answering",
                    }
                }
            },
            "own, clean, half: problem='question-answering' cannot be compared, only text-classification and image",
        ),
        ({"settings": {"learning_rat": 1}}, "films, clean, half: unknown setting 'learning_rat'"),
        ({"settings": [1]}, r"^settings: \[1\] must be a mapping"),
        ({"rules": ["fixed", "trust"]}, r"^rules: \['fixed', 'trust'\] must be a mapping"),
        ({"rules": {"half": 0.5}}, "^rules, half: 0.5 must be a mapping"),
        ({"rules": {0.5: {"kd_weight": 0.5}}}, "^rules: YAML reads the name 0.5 as no text: write it in quotes"),
        ({"tasks": {False: SMALL["tasks"]["films"]}}, "^tasks: YAML reads the name False as no text"),
        ({"tasks": None}, "^tasks is empty"),
        ({"seeds": 0}, r"^seeds: 0 must be a list, such as \[0\]"),
        ({"skipped": {"films": "clean"}}, r"^skipped, films: 'clean' must be a list, such as \[clean\]"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_run(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        load_comparison(written(tmp_path, **changed))


@pytest.mark.parametrize(
    ("content", "message"), [("[1, 2]", "holds no settings"), ("a: [", "no valid YAML"), ("rules: {}", "lacks out")]
)
def test_a_file_that_is_no_comparison_is_refused(tmp_path, content, message):
    (tmp_path / "file.yaml").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_comparison(tmp_path / "file.yaml")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        load_comparison(tmp_path / "none.yaml")


def test_a_part_by_an_unknown_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown rule 'adapt': did you mean 'adaptive'"):
        load_comparison(written(tmp_path)).restricted_to(rules=["adapt"])


def test_settings_of_all_kinds_come_through_the_command_line():
    settings = {"teacher": "t", "student_layers": [0, 2], "dataset": "d", "output_dir": "o", "learning_rate": 1e-5}
    settings |= {"lambda_rule": "evidence", "lambda_rule_kwargs": {"gamma": 1.0}, "student": None, "use_cpu": True}
    models, data, config = parse(arguments(settings))
    assert models.student_layers == [0, 2]
    assert data.dataset == "d"
    assert (config.learning_rate, config.use_cpu) == (1e-5, True)
    assert config.rule.gamma == 1.0


def test_a_comparison_may_have_several_teachers(tmp_path):
    film = {**SMALL["tasks"]["films"], "teacher": ["one", "two"], "student": "s", "student_layers": None}
    comparison = load_comparison(written(tmp_path, tasks={"films": film}, settings=None))
    assert comparison.parse("films")[0].teachers == ["one", "two"]


@pytest.mark.parametrize(
    "name", ["compare_rules", "compare_forms", "compare_tuning", "compare_variants", "compare_trust", "compare_frozen"]
)
def test_the_shipped_comparisons_are_valid(name):
    comparison = load_comparison(CONFIGS / f"{name}.yaml")
    assert comparison.output_dir == f"benchmarks/{name.replace('compare_rules', 'compare')}"


def test_a_teacher_that_is_not_fine_tuned_cannot_learn_noisy_labels(tmp_path):
    with pytest.raises(ValueError, match="noisy_teacher fine-tunes a teacher on noisy labels: set teacher_finetune"):
        load_comparison(written(tmp_path, regimes={"noisy_teacher": None}))


def test_the_shipped_comparison_has_a_sweep_of_fixed_weights_a_schedule_and_rules_that_measure():
    comparison = load_comparison(CONFIGS / "compare_rules.yaml")
    of_rules = {cell.rule: cell for cell in comparison.cells()}
    rules = {rule: comparison.parse(cell.task, cell.regime, rule)[2] for rule, cell in of_rules.items()}
    assert {rule.kd_weight for rule in rules.values() if rule.lambda_rule == "fixed"} == {0, 0.1, 0.5, 0.9}
    assert {rule.lambda_rule for rule in rules.values()} >= {"linear", "adaptive", "evidence"}
    assert len(comparison.seeds) >= 3
    of_trust = load_comparison(CONFIGS / "compare_trust.yaml")
    assert set(comparison.regimes) < set(of_trust.regimes) == set(REGIMES)


@pytest.mark.parametrize("given", [{"unlabelled_file": "a.txt"}, {"problem_type": "soft_labels"}])
def test_regimes_that_change_labels_need_one_for_each_example(tmp_path, given):
    task = {"teacher": "t", "student_layers": [0], "train_file": "b.csv", **given}
    load_comparison(written(tmp_path, tasks={"own": task}))
    with pytest.raises(ValueError, match=r"own, noisy_labels, half: .* is for the regime clean"):
        load_comparison(written(tmp_path, tasks={"own": task}, regimes={"clean": None, "noisy_labels": None}))


def test_a_comparison_of_noisy_labels_may_say_that_numbers_are_classes(tmp_path):
    task = {
        "teacher": "t",
        "student_layers": [0],
        "train_file": "b.csv",
        "problem_type": "single_label_classification",
    }
    load_comparison(written(tmp_path, tasks={"own": task}, regimes={"noisy_labels": None}))
