"""Question answering: a whole job from files to a student that answers, and what is refused."""

import json

import pytest
from helpers.small_jobs import job, question_settings
from helpers.tiny import SIZES, save_checkpoint, tiny_bert, tiny_tokenizer
from helpers.tiny_spans import span_bert
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    CanineTokenizer,
    DistilBertConfig,
    DistilBertForQuestionAnswering,
    DistilBertTokenizerFast,
)

from hf_kd_lambda.cli import main
from hf_kd_lambda.data.columns import TEACHER_PREFIX
from hf_kd_lambda.tasks import TASKS

TASK = TASKS["question-answering"]
METRICS = {"score", "exact_match", "f1", "teacher_agreement"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a job that ran, its settings and its reports."""
    folder = tmp_path_factory.mktemp("questions")
    settings = question_settings(
        folder,
        unanswerable=True,
        eval_strategy="epoch",
        metric_for_best_model="exact_match",
        train_sampling_strategy="group_by_length",
    )
    started = job(settings)
    started.check()
    return folder, settings, started.run()


def test_a_job_trains_a_teacher_and_a_student_of_it(finished):
    folder, _, reports = finished
    assert [report.name for report in reports] == ["teacher", "student with KD"]
    for report in reports:
        assert report.metrics["score"] == report.metrics["f1"] > 0.9
        assert {"f1_answerable", "f1_unanswerable"} <= report.metrics.keys()
    assert reports[1].metrics["teacher_agreement"] > 0.8
    history = json.loads((folder / "out" / "trainer_state.json").read_text())["log_history"]
    evaluations = [entry for entry in history if "eval_exact_match" in entry]
    assert len(evaluations) == 4
    assert evaluations[-1]["eval_f1"] > 0.9
    assert len(list((folder / "cache").iterdir())) == 2, "logits of training and of validation"


def test_the_student_that_is_left_answers(finished):
    folder, _, _ = finished
    student = AutoModelForQuestionAnswering.from_pretrained(folder / "out")
    tokenizer = AutoTokenizer.from_pretrained(folder / "out")
    tokens = tokenizer("good or bad?", "this is it, the film is very dull, it is a film", return_tensors="pt")
    outputs = student(**tokens)
    first, last = outputs.start_logits.argmax(), outputs.end_logits.argmax()
    assert tokenizer.decode(tokens["input_ids"][0, first : last + 1]) == "very dull"


def test_the_command_evaluate_finds_the_same(finished, tmp_path, capsys):
    folder, settings, reports = finished
    files = [f"--{name}={settings[name]}" for name in ("train_file", "validation_file", "test_file")]
    data = ["--problem=question-answering", *files, "--max_length=20", "--doc_stride=4"]
    checkpoints = [str(folder / "out"), f"--teacher={folder / 'out' / 'teacher'}"]
    main(["evaluate", *checkpoints, *data, "--json", str(tmp_path / "results.json")])
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["split"] == "test"
    assert found["models"][1]["metrics"] == pytest.approx(reports[-1].metrics)
    assert "exact_match (%)" in capsys.readouterr().out


def test_a_student_without_token_types_learns_from_questions_without_answers_too(tmp_path):
    """DistilBERT of BERT, whose tokens are the same."""
    size = {"vocab_size": SIZES["vocab_size"], "dim": 32, "n_heads": 2, "hidden_dim": 64, "n_layers": 1}
    DistilBertForQuestionAnswering(DistilBertConfig(**size)).save_pretrained(tmp_path / "student")
    DistilBertTokenizerFast(vocab=tiny_tokenizer().get_vocab()).save_pretrained(tmp_path / "student")
    other = {"student": str(tmp_path / "student"), "student_layers": None, "teacher_epochs": 1, "max_steps": 2}
    settings = question_settings(tmp_path, student_without_kd=True, **other)
    started = job({**settings, "unlabelled_file": settings["train_file"]})
    started.check()
    reports = started.run()
    assert reports[-1].metrics.keys() >= METRICS
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["examples"]["train"] == 2 * results["examples"]["train_unlabelled"] == 96
    windows = started.tokens["train"]["start_positions"][:]
    assert windows.count(-101) == len(windows) / 2 > 48
    columns = started.tokens["train"].column_names
    assert "token_type_ids" in columns
    assert not any(column.startswith(TEACHER_PREFIX) for column in columns)


def test_two_tokenizers_are_refused_before_training(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["xylophone"])
    student = span_bert(layers=1)
    student.resize_token_embeddings(len(tokenizer))
    student.save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    other = {"student": str(tmp_path / "student"), "student_layers": None}
    with pytest.raises(ValueError, match=r"'.*student', make different tokens, and an answer is a position"):
        job(question_settings(tmp_path, **other)).check()


def test_a_tokenizer_that_knows_of_no_characters_is_refused(tmp_path):
    CanineTokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a CanineTokenizer, has no character offsets"):
        TASK.load_processor(str(tmp_path))


def test_questions_are_padded_at_the_right(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(tmp_path)
    assert TASK.load_processor(str(tmp_path)).padding_side == "right"


def test_a_classifier_gets_a_new_head_with_two_outputs(tmp_path):
    data = TASK.load_data(job(question_settings(tmp_path)).data_args, 0)
    model = TASK.load_model(save_checkpoint(tiny_bert(3, layers=1), tmp_path / "classifier"), data)
    assert model.qa_outputs.out_features == model.config.num_labels == 2


@pytest.mark.parametrize("unanswerable", [True, False])
def test_a_guess_never_answers(tmp_path, unanswerable):
    data = TASK.load_data(job(question_settings(tmp_path, unanswerable=unanswerable)).data_args, 0)
    answers = data.splits[data.report_split]["label"][:]
    assert TASK.chance(data) == pytest.approx(sum(answer["text"] == [] for answer in answers) / len(answers))
    assert (TASK.chance(data) > 0.1) == unanswerable


def test_a_student_from_scratch_answers_too(tmp_path):
    architecture = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    changed = {"student_layers": None, "student_architecture": json.dumps({**architecture, "intermediate_size": 64})}
    started = job(question_settings(tmp_path, **changed))
    student = started.load_student(started.loader.teacher(new_head=True))
    assert type(student).__name__ == "BertForQuestionAnswering"
    assert student.config.num_labels == 2
