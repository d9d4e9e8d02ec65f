"""Variants of trust: what takes the place of the student's prediction."""

import pytest
import torch
from datasets import Dataset

pytest.importorskip("cleanlab")

from benchmarks.trust_variants import VARIANTS
from hf_kd_lambda.losses.functional.labels import item_labels

PASSES = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]]])  # of one example
TEACHER, ITEMS = torch.tensor([[0.5, -0.5]]), item_labels(torch.tensor([1]))


def seen_by(name):
    variant = VARIANTS[name](Dataset.from_dict({}), 2)
    return [variant.student(logits, TEACHER).softmax(-1) for logits in PASSES][-1]


def test_the_student_of_each_pass():
    first, last = PASSES.softmax(-1)
    torch.testing.assert_close(seen_by("plain losses"), last)
    torch.testing.assert_close(seen_by("first pass"), first)
    torch.testing.assert_close(seen_by("mean of passes"), (first + last) / 2)
    torch.testing.assert_close(seen_by("discounted"), (PASSES[-1] / 2).softmax(-1))


def test_plain_losses_have_no_weights_in_steps_that_measure():
    variant = VARIANTS["plain losses"](Dataset.from_dict({}), 2)
    for step in range(9):
        trusts, counts = variant.judge(PASSES[0], [TEACHER], ITEMS)
        assert (variant.weights(*trusts).task is None) == (step % 8 == 0)
        variant.update(counts)
