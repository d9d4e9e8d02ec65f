"""Fit student and teacher to the KD losses on intermediate outputs, or raise why they do not fit."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_kd_lambda.data.columns import accepted_inputs, forward_parameters, teacher_inputs
from hf_kd_lambda.data.first_examples import first_examples
from hf_kd_lambda.losses.base import PROJECTED, TeacherBatch
from hf_kd_lambda.losses.functional.spans import ANSWER_MASK, logits_of_items
from hf_kd_lambda.losses.layer_losses import HiddenLoss
from hf_kd_lambda.losses.objective import Objective
from hf_kd_lambda.models.attention import check_undropped_maps, use_eager_attention, use_undropped_maps
from hf_kd_lambda.models.ensemble import Ensemble
from hf_kd_lambda.models.intermediate_outputs import (
    VECTORS,
    add_attention_vectors,
    check_given,
    check_takes_flags,
    forward_flags,
)
from hf_kd_lambda.models.projections import add_projections
from hf_kd_lambda.models.protocol import as_model_output, model_device, vocabulary_size
from hf_kd_lambda.trainer.batches import Collate, training_batch
from hf_kd_lambda.trainer.student_checks import check_projections
from hf_kd_lambda.utils.evaluation_mode import evaluation_mode


def prepare_models(
    objective: Objective, student: Any, teacher: PreTrainedModel | None, datasets: Sequence[Any], collate: Collate
) -> tuple[bool, ...]:
    """Have both models put out what the losses need, give the student projections, and compute all losses once.

    Args:
        objective: objective of the run.
        student, teacher: any of which may be on another device than training will use; the student without
            projections.
        datasets: datasets of the run; both models are tried on the first example of the first.
        collate: makes a batch of it.

    Returns:
        For each hidden state of the teacher, whether a loss needs it; empty if no loss needs any.

    Raises:
        ValueError: there is no teacher, or no example to try both models on; a model does not give what is needed, the
            two cannot be compared, or nothing of the student is trained by a loss; the message says what to do.
    """
    needs, names = objective.needs, ", ".join(objective.kd_losses)
    if not needs:
        return ()
    if teacher is None:
        raise ValueError(f"kd_losses: {names} needs more of the teacher than its logits: give a teacher.")
    if isinstance(teacher, Ensemble):
        raise ValueError(
            f"kd_losses: {names} needs more of the teacher than the logits of an Ensemble: give one teacher."
        )
    if not datasets:
        raise ValueError(f"kd_losses: {names} needs an example to fit student and teacher: give train_dataset.")
    batch = training_batch(collate(first_examples(datasets[0], 1)), student)
    if "teacher_input_ids" in batch and not _are_same_tokens(batch, student, teacher):
        raise ValueError(
            f"kd_losses: {names}: the teacher has tokens of its own, so that its positions are not the student's: "
            "give both one tokenizer, or take losses of the logits."
        )
    for who, model in (("student", student), ("teacher", teacher)):
        if "attentions" in needs:
            use_eager_attention(model, who)
        if needs & set(VECTORS):
            add_attention_vectors(model, who)
    if "attentions" in needs:
        use_undropped_maps(student)
    students = accepted_inputs(student, batch)
    of_student = _outputs(student, students, needs, "student")
    if "attentions" in needs:
        check_undropped_maps(student, _on_device(students, student), of_student["attentions"])
    with torch.no_grad():
        of_teacher = _outputs(teacher, teacher_inputs(batch, forward_parameters(teacher)), needs, "teacher")
    pairs, needed = [], set()
    for name, loss in objective.kd_losses.items():
        with _named(name):
            if isinstance(loss, HiddenLoss):
                _check_sizes(loss, of_student, of_teacher)
            compared = loss.pairs(of_student, of_teacher)
            pairs += compared if loss.projects else []
            needed |= {layer for _, layer in compared if "hidden_states" in loss.needs}
    if pairs:
        add_projections(student, pairs, of_student["hidden_states"], of_teacher["hidden_states"])
        of_student = _outputs(student, students, needs, "student")
    inputs = _on_cpu({name: batch[name] for name in ("labels", "attention_mask", ANSWER_MASK) if name in batch})
    of_student["logits"] = logits_of_items(of_student["logits"], inputs)
    teacher_batch = TeacherBatch(of_teacher["logits"], inner=of_teacher).of_items(inputs)
    items = objective.items(of_student, teacher_batch, inputs)
    loss_inputs = objective.loss_inputs(of_student, teacher_batch, inputs, items, num_items=1)
    for name, loss in objective.kd_losses.items():
        with _named(name):
            if not loss(loss_inputs).requires_grad:
                raise ValueError("no trainable parameter of the student is before what it compares: leave it out.")
    check_projections(student)
    return tuple(layer in needed for layer in range(len(of_teacher.get("hidden_states", ()))))


def _are_same_tokens(batch: dict[str, Any], student: PreTrainedModel, teacher: PreTrainedModel) -> bool:
    """Whether the teacher's own tokens are the student's, as where only DistilBERT's lack `token_type_ids`."""
    of_one_size = vocabulary_size(student) == vocabulary_size(teacher)
    return of_one_size and torch.equal(batch["input_ids"], batch["teacher_input_ids"])


@contextlib.contextmanager
def _named(loss: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"kd_losses: {loss}: {error}") from None


def _check_sizes(loss: HiddenLoss, student: dict[str, Any], teacher: dict[str, Any]) -> None:
    """Refuse pairs of feature maps of unlike height and width, of unlike numbers of tokens, and of maps and tokens."""
    of_student, of_teacher = ([_size(state) for state in outputs["hidden_states"]] for outputs in (student, teacher))
    if {*of_student[1:]} & {*of_teacher[1:]}:
        fix = "name pairs of equal size in layers"
    else:
        fix = "take losses of the logits, or models of one kind and the same image_size and patch_size"
    for one, other in loss.pairs(student, teacher):
        if of_student[one] != of_teacher[other]:
            raise ValueError(
                f"layer {one - 1} of the student gives {of_student[one]}, layer {other - 1} of the teacher "
                f"{of_teacher[other]}: {fix}. The student's layers, from 0, give {', '.join(of_student[1:])}; the "
                f"teacher's {', '.join(of_teacher[1:])}."
            )


def _size(state: Tensor) -> str:
    """Size of feature maps `[examples, channels, height, width]`, or of tokens `[examples, length, width]`."""
    return " × ".join(map(str, state.shape[2:])) if state.dim() == 4 else f"{state.shape[1]} tokens"


def _outputs(model: PreTrainedModel, batch: dict[str, Any], needs: set[str], who: str) -> dict[str, Any]:
    """The model's outputs on the CPU, in evaluation mode, where no random number is drawn."""
    check_takes_flags(model, needs, who)
    with evaluation_mode(model):
        outputs = as_model_output(model(**_on_device(batch, model), **forward_flags(needs)), model, who)
    check_given(model, outputs, needs, who)
    return _on_cpu({name: outputs[name] for name in ("logits", PROJECTED, *needs) if name in outputs})


def _on_device(batch: dict[str, Any], model: PreTrainedModel) -> dict[str, Any]:
    return {name: value.to(model_device(model)) for name, value in batch.items()}


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {name: _on_cpu(output) for name, output in value.items()}
    return tuple(map(_on_cpu, value))
