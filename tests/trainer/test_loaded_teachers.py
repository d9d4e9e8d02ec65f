"""Students in fp32 of teachers in half precision, quantised, or offloaded."""

import copy

import pytest
import torch
from datasets import Dataset
from helpers.small_runs import config, examples, flat, logged, models, train
from helpers.tiny import save_checkpoint, tiny_tokenizer
from helpers.tiny_decoders import decoder
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding

from hf_kd_lambda import DistillationTrainer, Ensemble


def run(folder, teacher, student, **settings):
    return train(config(folder, teacher_cache_dir=str(folder / "cache"), **settings), teacher, student, examples())


def test_a_teacher_in_bf16_teaches_what_its_logits_say(tmp_path):
    teacher, student = models()
    teacher.bfloat16()
    trained = run(tmp_path, teacher, copy.deepcopy(student))
    data = examples()
    with torch.no_grad():
        inputs = {name: torch.tensor(data[name][:]) for name in ("input_ids", "attention_mask")}
        logits = teacher(**inputs).logits.float()
    given = data.add_column("teacher_logits", logits.tolist())
    expected = train(config(tmp_path / "given"), None, copy.deepcopy(student), given)
    assert next(trained.model.parameters()).dtype == torch.float32
    distance = (flat(expected.model) - flat(student)).norm()
    assert (flat(trained.model) - flat(expected.model)).norm() < 0.05 * distance
    losses = [logged(run.state.log_history, "kd_loss") for run in (trained, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_an_int8_teacher_is_computed_once(tmp_path):
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    teacher, student = models()
    quantization.quantize_(teacher, quantization.Int8WeightOnlyConfig())
    first, second = (run(tmp_path, copy.deepcopy(teacher), copy.deepcopy(student)) for _ in range(2))
    assert torch.equal(flat(first.model), flat(second.model))
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_an_offloaded_teacher_stays_where_it_is_and_runs_at_each_step(tmp_path, caplog):
    teacher, student = models()
    alone = run(tmp_path / "alone", teacher, copy.deepcopy(student), cache_teacher=False)
    checkpoint = save_checkpoint(teacher, tmp_path / "teacher")
    parts = dict.fromkeys(("bert.embeddings", "bert.pooler", "dropout", "classifier"), "cpu")
    offloaded = AutoModelForSequenceClassification.from_pretrained(
        checkpoint, device_map={**parts, "bert.encoder": "disk"}, offload_folder=str(tmp_path / "offload")
    )
    trained = run(tmp_path, offloaded, copy.deepcopy(student))
    torch.testing.assert_close(flat(trained.model), flat(alone.model), rtol=1e-5, atol=1e-7)
    assert "the teacher runs at each step, because weight" in caplog.text


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_a_model_that_does_not_know_the_padding_is_refused(tmp_path, who):
    """Without a processing_class nothing brings the padding token of the batches into the models."""
    tokenizer = tiny_tokenizer()
    known, unknown = (decoder("llama", pad_token_id=pad) for pad in (tokenizer.pad_token_id, 3))
    teacher, student = (unknown, known) if who == "teacher" else (known, unknown)
    texts = tokenizer(["a good film", "bad"], return_token_type_ids=False)
    given = {
        "train_dataset": Dataset.from_dict({**texts, "labels": [0, 1]}),
        "data_collator": DataCollatorWithPadding(tokenizer),
    }
    message = f"the {who}, a LlamaFor.* so that it reads the padding: batches are padded with token 0, .* is 3: set"
    with pytest.raises(ValueError, match=message):
        DistillationTrainer(student, config(tmp_path), teacher=teacher, **given)
    DistillationTrainer(student, config(tmp_path), teacher=teacher, processing_class=tokenizer, **given)


class Pooled(torch.nn.Module):
    """A teacher that averages over all positions, padding too."""

    def __init__(self):
        super().__init__()
        self.embeddings = torch.nn.Embedding(100, 3)

    def forward(self, input_ids):
        return self.embeddings(input_ids).mean(1)


def test_a_plain_module_that_reads_padding_gives_a_warning(tmp_path, caplog):
    tokenizer = tiny_tokenizer()
    texts = tokenizer(["a good film", "bad"], return_token_type_ids=False)
    DistillationTrainer(
        models()[1],
        config(tmp_path),
        teacher=Pooled(),
        train_dataset=Dataset.from_dict({**texts, "labels": [0, 1]}),
        processing_class=tokenizer,
    )
    assert "the teacher, a Pooled, gives an example other logits in a padded batch than alone" in caplog.text


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_decoders_read_each_text_of_a_padded_batch_as_alone(tmp_path, model_type):
    tokenizer = tiny_tokenizer()
    teachers = [decoder(model_type, pad_token_id=pad) for pad in (3, None)]
    student = decoder(model_type, pad_token_id=None)
    texts = tokenizer(["a good film", "bad"], return_token_type_ids=False)
    data = Dataset.from_dict({**texts, "labels": [0, 1]})
    DistillationTrainer(
        student,
        config(tmp_path),
        teacher=Ensemble(teachers),
        train_dataset=data,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    batch = tokenizer.pad(texts, return_tensors="pt")
    for model in (*teachers, student):
        together = model(**batch).logits
        alone = [model(**{name: torch.tensor([texts[name][row]]) for name in texts}).logits for row in (0, 1)]
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)
