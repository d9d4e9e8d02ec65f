"""TextBrewer's GeneralDistiller, set up as in its SST-2 notebook.

Differences: no hidden-state loss; the T² that its KD loss lacks is in the weight of the loss; torch's AdamW, since
Transformers has none any more, with the gradient clipping and weight decay of `Trainer`; batches padded to their
longest sentence. TextBrewer's loop saves the student after each epoch.
"""

from pathlib import Path
from typing import Any

from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler
from transformers import DataCollatorWithPadding, PreTrainedModel, get_linear_schedule_with_warmup
from transformers.modeling_outputs import SequenceClassifierOutput

from benchmarks.contenders.task import Parts, Task, accuracy, adamw, schedule, training_device


def _adaptor(batch: dict[str, Tensor], outputs: SequenceClassifierOutput) -> dict[str, Any]:
    return {"logits": outputs.logits, "losses": outputs.loss}


def make_distiller(task: Task, parts: Parts, folder: Path) -> GeneralDistiller:
    """The distiller, whose loss has the gradient of (1 − kd_weight)·CE + kd_weight·T²·KL.

    Its KD loss is the cross-entropy with the softened teacher, which exceeds KL by the teacher's entropy.
    """
    device = training_device()
    return GeneralDistiller(
        train_config=TrainingConfig(output_dir=str(folder / "textbrewer"), device=device),
        distill_config=DistillationConfig(
            temperature=task.temperature,
            hard_label_weight=1 - task.kd_weight,
            kd_loss_weight=task.kd_weight * task.temperature**2,
        ),
        model_T=parts.teacher.to(device),
        model_S=parts.student.to(device),
        adaptor_T=_adaptor,
        adaptor_S=_adaptor,
    )


def train(task: Task, parts: Parts, folder: Path) -> int:
    """Train, evaluate after each epoch and save the student in `folder`.

    Returns:
        Number of optimizer steps.
    """
    return _train(task, parts, folder, parts.collator)


def train_padded(task: Task, parts: Parts, folder: Path) -> int:
    """The same with all sentences padded to `max_length`, as in the notebook."""
    padded = DataCollatorWithPadding(parts.tokenizer, padding="max_length", max_length=task.max_length)
    return _train(task, parts, folder, padded)


def _train(task: Task, parts: Parts, folder: Path, collator: DataCollatorWithPadding) -> int:
    loader = DataLoader(parts.train, task.batch, sampler=RandomSampler(parts.train), collate_fn=collator)
    last_step = 0

    def evaluate(model: PreTrainedModel, step: int) -> None:
        nonlocal last_step
        last_step = step
        print(f"step {step}: accuracy {accuracy(model, parts, task.batch):.4f}")

    distiller = make_distiller(task, parts, folder)
    with distiller:
        distiller.train(
            adamw(parts.student, task.learning_rate, task.weight_decay),
            loader,
            task.epochs,
            scheduler_class=get_linear_schedule_with_warmup,
            scheduler_args=schedule(task, parts),
            max_grad_norm=task.max_grad_norm,
            callback=evaluate,
            batch_postprocessor=dict,  # TextBrewer passes keyword arguments only from an exact dict
        )
    parts.student.save_pretrained(folder)
    return last_step
