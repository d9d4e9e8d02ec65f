"""Several labels an example, and soft labels, some of them missing, and plain computations of their losses."""

import torch
import torch.nn.functional as F
from datasets import Dataset
from helpers import reference
from helpers.small_runs import BATCH, STEPS, examples

MULTI_LABEL = {"problem_type": "multi_label_classification"}
NAN = float("nan")


def with_labels(labels: list) -> Dataset:
    """The usual examples with other labels."""
    return examples(len(labels)).remove_columns("labels").add_column("labels", labels)


def label_sets() -> Dataset:
    """Three labels an example, of which one or all are missing in some."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(0, 2, (STEPS * BATCH, 3), generator=generator).float()
    labels[::5, 1] = NAN
    labels[::7] = NAN
    return with_labels(labels.tolist())


def shares() -> Dataset:
    """A distribution of three classes for each example, but for some."""
    generator = torch.Generator().manual_seed(6)
    labels = torch.rand((STEPS * BATCH, 3), generator=generator, dtype=torch.float64)
    labels /= labels.sum(-1, keepdim=True)
    labels[::7] = NAN
    return with_labels(labels.tolist())


def forward(student, teacher, batch):
    """Logits of student and teacher, and the labels."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        soft = teacher(**inputs).logits
    return student(**inputs).logits, soft, batch["labels"]


def losses_of_label_sets(student, teacher, batch, task_loss=None):
    """Mean binary cross-entropy over known labels, and mean T²·KL over all labels, from probabilities."""
    logits, soft, labels = forward(student, teacher, batch)
    known = ~labels.isnan()
    task = F.binary_cross_entropy_with_logits(logits[known], labels[known])
    q, p = (logits / reference.TEMPERATURE).sigmoid(), (soft / reference.TEMPERATURE).sigmoid()
    kl = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    return task, reference.TEMPERATURE**2 * kl.mean()


def losses_of_shares(student, teacher, batch, task_loss=None):
    """Mean cross-entropy with the known distributions, and mean T²·KL over all examples."""
    logits, soft, labels = forward(student, teacher, batch)
    known = ~labels.isnan().any(-1)
    return F.cross_entropy(logits[known], labels[known]), reference.mean_kd_loss(logits, soft)


KINDS = {
    "several labels": (MULTI_LABEL, label_sets, losses_of_label_sets),
    "soft labels": ({}, shares, losses_of_shares),
}
"""Fields of the configuration, examples, and both losses as `reference.losses`."""
