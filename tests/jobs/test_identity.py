"""What tells whether a folder belongs to a run, apart from the settings."""

import hashlib
from pathlib import Path

import pytest
from datasets import Dataset, Features, List, Value
from helpers.tiny import save_checkpoint, tiny_bert

from hf_kd_lambda.jobs.identity import CONTENTS, content, digest, student_identity
from hf_kd_lambda.jobs.run_folder import claim_folder, record_run

TOKENS = Dataset.from_dict({"input_ids": [[1, 2], [3]], "labels": [0, 1]})
OTHERS = Dataset.from_dict({"input_ids": [[1, 2], [4]], "labels": [0, 1]})


def identity(teacher, student=None, names=("no", "yes"), validation=TOKENS, best=True):
    settings = {"teacher": teacher, "student": student, "load_best_model_at_end": best}
    return student_identity(settings, 1, list(names), {"train": TOKENS, "validation": validation})


@pytest.fixture
def teacher(tmp_path):
    return save_checkpoint(tiny_bert(layers=1), tmp_path / "teacher")


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_a_model_replaced_in_its_folder_is_another_run(teacher, tmp_path, who):
    given = {"teacher": "hub/teacher", who: teacher}
    record_run(tmp_path / "out", identity(**given), finished=True)
    (tmp_path / "out" / "config.json").touch()
    assert claim_folder("output_dir", tmp_path / "out", identity(**given))
    save_checkpoint(tiny_bert(layers=1), Path(teacher))
    with pytest.raises(ValueError, match=f"a run that differs in content of {who}: choose another output_dir"):
        claim_folder("output_dir", tmp_path / "out", identity(**given))


def test_a_run_that_recorded_no_contents_goes_on(teacher, tmp_path):
    now = identity(teacher)
    record_run(tmp_path, {name: value for name, value in now.items() if name not in CONTENTS}, finished=False)
    (tmp_path / "checkpoint-1").mkdir()
    assert not claim_folder("output_dir", tmp_path, now)


def test_contents_are_those_of_every_teacher_and_not_of_other_files(teacher, tmp_path):
    other = save_checkpoint(tiny_bert(layers=1), tmp_path / "other")
    assert content([teacher, other]) == content(teacher) + content(other)
    (Path(teacher) / "results.json").touch()
    assert len(content(teacher)) == 2
    assert content("hub/teacher") == content(None) == []


def test_names_of_classes_and_examples_that_choose_the_best_checkpoint_count():
    assert identity("hub/a") != identity("hub/a", names=("no", "maybe"))
    assert identity("hub/a") != identity("hub/a", validation=OTHERS)
    assert identity("hub/a", best=False) == identity("hub/a", validation=OTHERS, best=False)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
def test_a_digest_is_that_of_the_whole_column_however_it_is_read(monkeypatch, count):
    ids = [[number, 2 * number] for number in range(count)]
    features = Features({"input_ids": List(Value("int64"))})
    expected = hashlib.sha256(repr(ids).encode()).hexdigest()[:16]
    for at_once in (1, 2, 1000):
        monkeypatch.setattr("hf_kd_lambda.jobs.identity._AT_ONCE", at_once)
        assert digest(Dataset.from_dict({"input_ids": ids}, features)) == expected


def test_the_teachers_own_tokens_are_part_of_the_examples():
    def of_both(ids):
        return digest(TOKENS.add_column("teacher_input_ids", ids))

    assert of_both([[7], [8]]) != of_both([[7], [9]])
