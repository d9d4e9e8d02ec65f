"""What is reported of labels and teacher: on planted errors, and number by number."""

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import load_dataset

from hf_kd_lambda.balancing.class_reliabilities import ClassReliabilities
from hf_kd_lambda.reports.label_quality import (
    LabelQuality,
    explain_quality,
    judge_labels,
    most_suspicious,
    quality_summary,
    quality_table,
    write_quality,
)
from hf_kd_lambda.reports.memorised_labels import Agreement, Judged

NAMES = ["negative", "neutral", "positive"]


def reliabilities(alpha, beta):
    state = ClassReliabilities()
    state.sums = 1e8 * torch.tensor([alpha, 1.0, beta, 1.0])  # so many that those before the first item do not count
    return state


def small():
    """Six examples, one without a label; the labels of rows 1 and 4 look wrong, and the teacher of row 2."""
    return LabelQuality(
        labels=np.array([0, 0, 1, -100, 2, 2]),
        answers=np.array([0, 1, 0, 1, 1, 2]),
        label_trust=np.array([0.9, 0.2, 0.8, 0.0, 0.1, 0.9], dtype=np.float32),
        teacher_trust=np.array([0.9, 0.8, 0.1, 0.9, 0.8, 0.9], dtype=np.float32),
        wrong=np.array([0.0, 0.75, 0.01, 0.0, 0.88, 0.0], dtype=np.float32),
        label_reliability=0.58,
        teacher_reliability=0.73,
        names=NAMES,
    )


def test_planted_errors_are_found_and_their_share_is_right():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(3, (3000,), generator=generator)
    is_wrong = torch.rand(3000, generator=generator) < 0.2
    labels = torch.where(is_wrong, (truth + 1) % 3, truth)
    sure = 3 * torch.nn.functional.one_hot(truth, 3)
    student, teacher = sure + torch.randn(2, 3000, 3, generator=generator)
    quality = judge_labels(Judged(student, teacher, labels), reliabilities(0.7, 0.95), NAMES)
    # α counts guesses too, of which a third is right: a share of 0.2 is wrong if 0.3 are guesses.
    assert quality_summary(quality)["wrong_labels"] == pytest.approx(0.2, abs=0.02)
    found = {example["row"] for example in most_suspicious(quality, 500)}
    assert is_wrong[sorted(found)].float().mean() > 0.9
    # By Bayes' rule with the three classes, without a shortcut.
    q, p = student.softmax(-1), teacher.softmax(-1)
    of_label = 0.7 * torch.nn.functional.one_hot(labels, 3) + 0.3 / 3
    posterior = q * of_label * (0.95 * p + 0.05 / 3)
    right = (posterior / posterior.sum(-1, keepdim=True)).gather(1, labels.unsqueeze(1)).squeeze(1)
    np.testing.assert_allclose(quality.wrong, 1 - right.numpy(), atol=1e-5)


def test_a_summary_by_hand():
    summary = quality_summary(small())
    assert summary["wrong_labels"] == pytest.approx((0.75 + 0.01 + 0.88) / 5)
    assert summary["uninformative_teacher"] == pytest.approx(1 - 4.4 / 6)
    assert (summary["examples"], summary["labelled"]) == (6, 5)
    assert [class_["labelled"] for class_ in summary["classes"]] == [2, 1, 2]
    assert [class_["rather"] for class_ in summary["classes"]] == ["neutral", None, "neutral"]
    assert summary["classes"][1]["uninformative_teacher"] == pytest.approx(0.9)


def test_words_name_the_class_where_the_teacher_fails():
    words = explain_quality(quality_summary(small()))
    assert words.startswith(
        "About 33% of the labels look wrong, most of them labelled positive; the teacher is uninformative on about "
        "27% of the examples, most of the labelled ones among them of class neutral."
    )
    assert "memorised" not in words
    labelled = LabelQuality(*(np.delete(part, 3) if isinstance(part, np.ndarray) else part for part in small()))
    assert "on about 30% of the examples, most of them of class neutral." in explain_quality(quality_summary(labelled))


@pytest.mark.parametrize(
    ("factor", "share"),
    [
        (1, "At least 33% of the labels look wrong, probably more"),
        (0.01, "At least 0.3% of the labels look wrong, probably more"),
        (0.001, "Hardly any label looks wrong, but more may be; the"),
    ],
)
def test_the_share_is_a_lower_bound_where_the_teacher_learned_these_labels(factor, share):
    found = small()._replace(wrong=small().wrong * factor)
    summary = quality_summary(found, teacher_learned_them=True)
    words = explain_quality(summary)
    assert words.startswith(share)
    assert "may have memorised wrong ones. This is an estimate." in words
    assert summary["more_are_wrong"]
    assert not quality_summary(found)["more_are_wrong"]


def test_words_are_plain_text():
    words = explain_quality(quality_summary(small()._replace(names=["C#", "Q&A", "a|b"])))
    assert "most of them labelled a|b; the teacher" in words
    assert "among them of class Q&A. " in words


def test_words_say_so_where_the_share_is_too_small():
    found = small()._replace(
        agreements=[Agreement("teacher", 0.97, 0.88, 900, 400), Agreement("student", 0.9, 0.9, 900, 400)]
    )
    summary = quality_summary(found)
    assert summary["more_are_wrong"]
    assert summary["agreements"][0] == {
        "model": "teacher",
        "training": 0.97,
        "validation": 0.88,
        "training_labels": 900,
        "validation_labels": 400,
        "has_memorised": True,
    }
    assert [model["has_memorised"] for model in summary["agreements"]] == [True, False]
    for teacher_learned_them in (False, True):
        words = explain_quality(quality_summary(found, teacher_learned_them))
        assert words.startswith(
            "At least 33% of the labels look wrong, probably more, most of them labelled positive;"
        )
        assert "The teacher agrees with 97% of the training labels, but with only 88% of the validation" in words
        assert "wrong ones among them do not look wrong. This is an estimate." in words
        assert "may have memorised" not in words


def test_words_say_so_where_the_teacher_gives_all_classes_the_same_probability():
    judged = Judged(torch.randn(6, 3), 0.01 * torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2]))
    found = judge_labels(judged, ClassReliabilities(3), ["a", "b", "c"])
    words = explain_quality(quality_summary(found))
    assert "the teacher gives nearly the same probability to all classes, so that it tells nothing of them" in words
    assert "uninformative" not in words
    sure = judge_labels(judged._replace(teacher=300 * judged.teacher), ClassReliabilities(3), ["a", "b", "c"])
    assert "the teacher is uninformative on about" in explain_quality(quality_summary(sure))


def test_words_and_numbers_name_the_reliability_of_each_teacher():
    assert "teacher_reliabilities" not in quality_summary(small())
    summary = quality_summary(small()._replace(teachers=[0.91, 0.04]))
    assert summary["teacher_reliabilities"] == [0.91, 0.04]
    assert "neutral. The reliability is 0.91 for teacher 1, 0.04 for teacher 2. This" in explain_quality(summary)


def test_words_name_no_class_where_errors_are_everywhere():
    even = small()._replace(labels=np.array([0, 1, 2, 0, 1, 2]), teacher_trust=np.full(6, 0.5, dtype=np.float32))
    assert explain_quality(quality_summary(even)).split(".")[0].endswith("of the examples")


def test_the_table_has_a_row_for_each_class_and_no_markup_of_names():
    table = quality_table(quality_summary(small()._replace(names=["a|b", "<i>", "*"]))).splitlines()
    assert len(table) == 5
    assert table[2].startswith("| a\\|b | 2 |")


def test_the_worst_labels_come_first_and_unlabelled_or_right_ones_never():
    found = most_suspicious(small(), 10)
    assert [example["row"] for example in found] == [4, 1, 2]
    assert [example["row"] for example in most_suspicious(small(), 1)] == [4]
    certain = np.array([0.05, 0.75, 0.01, 0.0, 0.88, 0.3], dtype=np.float32)
    assert [example["row"] for example in most_suspicious(small()._replace(wrong=certain), 10)] == [4, 1, 5, 2]
    assert found[0] == {
        "row": 4,
        "label": "positive",
        "teacher": "neutral",
        "label_wrong": pytest.approx(0.88),
        "label_trust": pytest.approx(0.1),
        "teacher_trust": pytest.approx(0.8),
    }


def test_a_class_that_the_student_excludes_is_no_guess():
    student, teacher = torch.zeros(2, 3), torch.tensor([[4.0, 0.0, -torch.inf]]).expand(2, 3)
    student[:, 2] = -torch.inf
    labels = torch.tensor([0, 1])
    with_it = judge_labels(Judged(student, teacher, labels), reliabilities(0.6, 0.7), ["a", "b", "c"])
    without = judge_labels(Judged(student[:, :2], teacher[:, :2], labels), reliabilities(0.6, 0.7), ["a", "b"])
    np.testing.assert_allclose(with_it.wrong, without.wrong, rtol=1e-5)


def test_labels_that_are_all_missing_are_no_error():
    summary = quality_summary(small()._replace(labels=np.full(6, -100)))
    assert (summary["labelled"], summary["wrong_labels"], summary["label_reliability"]) == (0, 0.0, None)
    assert explain_quality(summary).startswith("No training example has a label; the teacher is uninformative on")


def test_the_file_has_every_example_and_texts_on_request(tmp_path):
    for texts in (None, {"text": list("abcdef")}):
        write_quality(tmp_path / "quality.parquet", small(), texts)
        rows = load_dataset("parquet", data_files=str(tmp_path / "quality.parquet"), cache_dir=str(tmp_path))["train"]
        assert rows["row"][:] == list(range(6))
        assert rows["label"][:] == ["negative", "negative", "neutral", None, "positive", "positive"]
        assert ("text" in rows.column_names) == (texts is not None)
        np.testing.assert_allclose(rows["teacher_trust"][:], small().teacher_trust)


def test_examples_without_a_label_sort_last_in_the_file(tmp_path):
    write_quality(tmp_path / "quality.parquet", small(), {"row": [10, 11, 12, 13, 14, 15]})
    rows = pd.read_parquet(tmp_path / "quality.parquet")
    assert rows.sort_values("label_trust")["row"].tolist() == [14, 11, 12, 10, 15, 13]
    assert rows.sort_values("label_wrong", ascending=False)["row"].tolist()[:3] == [14, 11, 12]
    assert rows["label_wrong"].isna().tolist() == [False] * 3 + [True] + [False] * 2
