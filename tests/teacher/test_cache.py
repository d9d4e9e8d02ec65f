"""The cached outputs are the teacher's own, computed once for the same teacher and examples, or refused."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset, concatenate_datasets
from helpers.tiny import VOCABULARY, tiny_bert, tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from transformers import DataCollatorWithPadding

from hf_kd_lambda.losses.base import TeacherBatch
from hf_kd_lambda.teacher.cache import TeacherCache, plan_batches
from hf_kd_lambda.teacher.cache_file import CacheUnavailableError
from hf_kd_lambda.teacher.cache_format import CacheFormat
from hf_kd_lambda.teacher.collator import unpacked
from hf_kd_lambda.utils.fingerprint import model_digest

COUNT = 23


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return tiny_bert(layers=2).eval()


@pytest.fixture
def examples():
    return sentences()


def sentences(count=COUNT, seed=0):
    """Random sentences of 1 to 12 tokens, with labels."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 13, (count,), generator=generator).tolist()
    ids = [torch.randint(5, len(VOCABULARY), (length,), generator=generator).tolist() for length in lengths]
    return Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * n for n in lengths], "labels": [0] * count})


class Predict:
    """A teacher's outputs of a batch, and the shapes of the batches it was asked for."""

    def __init__(self, teacher, kept=None):
        self.teacher, self.rows, self.shapes = teacher, (kept or CacheFormat()).rows, []

    @torch.no_grad()
    def __call__(self, batch):
        self.shapes.append(tuple(batch["input_ids"].shape))
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        outputs = self.teacher(**inputs, output_hidden_states=True)
        return self.rows(TeacherBatch(outputs.logits, inner=outputs), batch["attention_mask"])


def cache(folder, teacher, predict=None, **settings):
    settings = {
        "identity": model_digest(teacher),
        "collate": DataCollatorWithPadding(tiny_tokenizer()),
        "batch_size": 4,
        "progress": False,
        **settings,
    }
    return TeacherCache(folder, predict=predict or Predict(teacher), accelerator=Accelerator(cpu=True), **settings)


@torch.no_grad()
def online(teacher, examples, **settings):
    """The teacher's outputs of each example alone, without padding."""
    return [teacher(torch.tensor([ids]), **settings) for ids in examples.with_format(None)["input_ids"]]


def assert_logits(cached, teacher, examples):
    assert cached.column_names == [*examples.column_names, "teacher_logits", "teacher_inputs_digest"]
    assert cached.with_format(None)["input_ids"][:] == examples.with_format(None)["input_ids"][:]
    logits = torch.tensor(cached.with_format(None)["teacher_logits"][:])
    expected = torch.cat([outputs.logits for outputs in online(teacher, examples)])
    assert expected.std(dim=0).min() > 1e-3, "examples must differ for the comparison to mean anything"
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)


# --- length-grouped batches


@given(st.lists(st.integers(0, 40), max_size=60), st.integers(1, 8))
def test_each_example_is_in_one_batch_of_few_enough_tokens_and_the_longest_come_first(lengths, batch_size):
    batch_tokens = batch_size * max(lengths, default=1)
    batches = plan_batches(lengths, batch_tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(batches)
    assert all(len(batch) * max(lengths[index] for index in batch) <= batch_tokens for batch in batches)
    in_turn = [lengths[index] for batch in batches for index in batch]
    assert in_turn == sorted(lengths, reverse=True)
    assert all((len(batch) + 1) * lengths[batch[0]] > batch_tokens for batch in batches[:-1]), "as few as possible"


def test_an_example_longer_than_the_budget_is_a_batch_of_its_own():
    assert plan_batches([3, 9, 1, 2], batch_tokens=4) == [[1], [0], [3, 2]]


def test_batches_hold_as_many_tokens_as_the_longest_examples_do(teacher, examples, tmp_path):
    predict = Predict(teacher)
    cache(tmp_path, teacher, predict).add_to(examples)
    (size, longest), *others = predict.shapes
    assert (size, longest) == (4, 12)
    assert sum(count for count, _ in predict.shapes) == COUNT
    assert all(count * length <= 48 for count, length in others)
    assert max(count for count, _ in others) > 4


@pytest.mark.parametrize("column", ["teacher_input_ids", "text"])
def test_lengths_are_those_of_the_teachers_tokens_if_known(teacher, tmp_path, column):
    values = [[5] * (8 if index == 3 else 1) for index in range(9)] if column != "text" else ["a"] * 9
    data = Dataset.from_dict({column: values, "input_ids": [[5] * 9] * 9} if column != "text" else {column: values})
    sizes = []

    def predict(batch):
        sizes.append(len(batch["rows"]))
        return {"teacher_logits": list(batch["rows"])}

    def collate(rows):
        return {"rows": torch.tensor([[len(row[column])] for row in rows])}

    cached = cache(tmp_path, teacher, predict, collate=collate, batch_size=2).add_to(data)
    assert sizes == ([2, 7] if column == "teacher_input_ids" else [2, 2, 2, 2, 1])
    assert cached["teacher_logits"][:] == [[len(value)] for value in values]


# --- the outputs, together with the examples


def test_cached_logits_are_the_teachers_in_the_examples_order(teacher, examples, tmp_path):
    assert_logits(cache(tmp_path, teacher).add_to(examples), teacher, examples)


@pytest.mark.parametrize(
    "view",
    [
        lambda data: data.shuffle(seed=0),
        lambda data: data.select([5, 3, 19, 3, 0, 22, 11]),
        lambda data: data.select(range(4, 15)),
        lambda data: data.filter(lambda row: len(row["input_ids"]) > 3).shuffle(seed=1),
        lambda data: data.with_format("torch").shuffle(seed=2),
        lambda data: data.with_format("numpy", columns=["input_ids", "attention_mask", "labels"]),
    ],
    ids=["shuffled", "chosen", "a range", "filtered", "torch, shuffled", "numpy"],
)
def test_views_of_a_dataset_get_their_own_rows(teacher, examples, tmp_path, view):
    data = view(examples)
    cached = cache(tmp_path, teacher).add_to(data)
    assert_logits(cached, teacher, data)
    assert len(cached) == len(data)


@pytest.mark.parametrize("all_columns", [False, True])
def test_the_format_of_the_examples_is_kept(teacher, examples, tmp_path, all_columns):
    kept = ["input_ids", "attention_mask"]
    data = examples.with_format("torch", kept, output_all_columns=all_columns, device="cpu")
    before = data.format
    cached = cache(tmp_path, teacher).add_to(data)
    assert cached.format == {**before, "columns": [*kept, "teacher_logits", "teacher_inputs_digest"]}
    assert set(cached[0]) == {*kept, "teacher_logits", "teacher_inputs_digest"} | (
        {"labels"} if all_columns else set()
    )
    assert data.format == before


def test_hidden_states_are_kept_for_each_token(teacher, examples, tmp_path):
    kept = CacheFormat(hidden_states=(True, False, True))
    cached = cache(tmp_path, teacher, Predict(teacher, kept)).add_to(examples)
    assert cached.column_names == [*examples.column_names, *kept.columns, "teacher_inputs_digest"]
    for row, outputs in zip(cached, online(teacher, examples, output_hidden_states=True), strict=True):
        for layer in (0, 2):
            state = unpacked(row["teacher_outputs"])[f"hidden_states.{layer}"]
            torch.testing.assert_close(state, outputs.hidden_states[layer][0].half(), rtol=2e-3, atol=1e-5)


def test_only_what_the_examples_lack_is_added(teacher, examples, tmp_path):
    with_logits = examples.add_column("teacher_logits", [[7.0, 8.0, 9.0]] * COUNT)
    cached = cache(tmp_path, teacher, Predict(teacher, CacheFormat((True, False, True)))).add_to(with_logits)
    assert cached.column_names == [*with_logits.column_names, "teacher_outputs", "teacher_inputs_digest"]
    assert cached["teacher_logits"][:] == with_logits["teacher_logits"][:]


# --- what is computed again, and what is not


def times_computed(folder, teacher, examples, **settings):
    predict = Predict(teacher)
    assert_logits(cache(folder, teacher, predict, **settings).add_to(examples), teacher, examples)
    return len(predict.shapes)


def other_token(examples):
    ids = examples["input_ids"][:]
    ids[-1][-1] = 5 + (ids[-1][-1] == 5)
    return examples.remove_columns("input_ids").add_column("input_ids", ids).select_columns(examples.column_names)


def other_weight(teacher):
    changed = tiny_bert(layers=2).eval()
    changed.load_state_dict(teacher.state_dict())
    changed.bert.encoder.layer[0].output.dense.bias.data[0] += 0.5
    return changed


def test_the_same_examples_are_not_computed_again(teacher, examples, tmp_path):
    assert times_computed(tmp_path, teacher, examples) > 0
    assert times_computed(tmp_path, teacher, examples) == 0
    assert times_computed(tmp_path, teacher, sentences().with_format("torch")) == 0
    assert times_computed(tmp_path, teacher, examples, batch_size=7) == 0
    twice = concatenate_datasets([examples, examples])
    assert times_computed(tmp_path, teacher, twice.select(range(COUNT))) == 0
    assert times_computed(tmp_path, teacher, twice) > 0


@pytest.mark.parametrize("row", [0, COUNT - 1])
def test_other_labels_are_not_computed_again(teacher, examples, tmp_path, row):
    times_computed(tmp_path, teacher, examples)
    labels = [int(index == row) for index in range(COUNT)]
    relabelled = examples.remove_columns("labels").add_column("labels", labels)
    assert times_computed(tmp_path, teacher, relabelled) == 0
    assert cache(tmp_path, teacher).add_to(relabelled)["labels"][:] == labels


def test_another_token_weight_or_kind_of_output_is_recomputed(teacher, examples, tmp_path):
    times_computed(tmp_path, teacher, examples)
    assert times_computed(tmp_path, teacher, other_token(examples)) > 0
    assert times_computed(tmp_path, other_weight(teacher), examples) > 0
    assert times_computed(tmp_path, teacher, examples, identity="logits in bf16") > 0
    assert len(list(tmp_path.iterdir())) == 4


def test_what_the_collator_makes_of_the_examples_counts(teacher, examples, tmp_path):
    times_computed(tmp_path, teacher, examples)
    tokenizer = tiny_tokenizer()
    padded = DataCollatorWithPadding(tokenizer, padding="max_length", max_length=20)
    assert times_computed(tmp_path, teacher, examples, collate=padded) > 0


def test_corrupt_outputs_are_recomputed(teacher, examples, tmp_path, caplog):
    times_computed(tmp_path, teacher, examples)
    (entry,) = tmp_path.iterdir()
    (entry / "outputs.arrow").write_bytes(b"cut")
    assert times_computed(tmp_path, teacher, examples) > 0
    assert "is corrupt; recomputing teacher outputs" in caplog.text
    assert times_computed(tmp_path, teacher, examples) == 0


def test_computing_leaves_the_random_numbers_of_training_as_they_are(teacher, examples, tmp_path):
    before = torch.get_rng_state()
    assert times_computed(tmp_path, teacher, examples) > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_may_hold_more_than_tensors(teacher, examples, tmp_path):
    pad = DataCollatorWithPadding(tiny_tokenizer())

    def collate(rows):
        return {**pad(rows), "sources": [f"row of {len(row['input_ids'])}" for row in rows], "metadata": None}

    assert times_computed(tmp_path, teacher, examples, collate=collate) > 0
    assert times_computed(tmp_path, teacher, examples, collate=collate) == 0


# --- examples that cannot be cached


def drop_at_random(rows):
    ids = torch.stack([torch.tensor(row["input_ids"])[:1] for row in rows])
    return {"input_ids": ids, "attention_mask": (torch.rand(ids.shape) > 0.5).long()}


@pytest.mark.parametrize(
    ("view", "settings", "reason"),
    [
        (lambda data: data, {"collate": drop_at_random}, "augmented at random"),
        (lambda data: data.with_transform(lambda batch: batch), {}, "transformed on the fly"),
        (lambda data: data.to_iterable_dataset(), {}, "IterableDataset is not a datasets.Dataset"),
        (list, {}, "list is not a datasets.Dataset"),
    ],
    ids=["random collator", "set_transform", "streamed", "a list"],
)
def test_examples_that_are_not_the_same_each_time_are_refused(teacher, examples, tmp_path, view, settings, reason):
    predict = Predict(teacher)
    with pytest.raises(CacheUnavailableError, match=reason):
        cache(tmp_path / "cache", teacher, predict, **settings).add_to(view(examples))
    assert predict.shapes == []
    assert not (tmp_path / "cache").exists()


def test_outputs_of_another_version_are_computed_again(teacher, examples, tmp_path, monkeypatch):
    assert times_computed(tmp_path, teacher, examples) > 0
    assert times_computed(tmp_path, teacher, examples) == 0
    monkeypatch.setattr("hf_kd_lambda.teacher.cache.version", lambda name: "another")
    assert times_computed(tmp_path, teacher, examples) > 0


def test_all_ranks_refuse_what_one_of_them_refuses(teacher, examples, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_kd_lambda.teacher.cache.gather_object", lambda own: [*own, "augmented on rank 1"])
    predict = Predict(teacher)
    with pytest.raises(CacheUnavailableError, match="augmented on rank 1"):
        cache(tmp_path / "cache", teacher, predict).add_to(examples)
    assert predict.shapes == []


def test_a_folder_that_cannot_be_written_is_refused_before_the_teacher_is_asked(teacher, examples, tmp_path):
    (tmp_path / "file").write_text("")
    predict = Predict(teacher)
    with pytest.raises(
        CacheUnavailableError, match=r"^the outputs cannot be saved in teacher_cache_dir='.*file/cache' \(.*file"
    ):
        cache(tmp_path / "file" / "cache", teacher, predict).add_to(examples)
    assert predict.shapes == []


def test_a_full_disk_is_found_after_one_batch(teacher, examples, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    predict = Predict(teacher)
    with pytest.raises(CacheUnavailableError, match=r"writing them needs .* MB, but the disk has 0 MB free"):
        cache(tmp_path, teacher, predict).add_to(examples)
    assert len(predict.shapes) == 1
    assert list(tmp_path.iterdir()) == []


def swap_first_two(rows):
    return [rows[1], rows[0], *rows[2:]]


def longest_last(rows):
    return sorted(rows, key=lambda row: len(row["input_ids"]))


def without_last(rows):
    return rows[:-1]


@pytest.mark.parametrize("change", [swap_first_two, longest_last, without_last])
def test_batches_with_other_rows_than_the_examples_are_refused_though_the_probes_were_not(teacher, tmp_path, change):
    pad, many, calls = DataCollatorWithPadding(tiny_tokenizer()), sentences(80), []

    def collate(rows):
        calls.append(rows)
        is_probe = len(rows) == 1 or len(calls) <= 2  # all probes twice, and then each alone
        return pad(rows if is_probe else change(rows))

    with pytest.raises(CacheUnavailableError, match="sorts, drops, merges or changes rows"):
        cache(tmp_path, teacher, collate=collate).add_to(many)
