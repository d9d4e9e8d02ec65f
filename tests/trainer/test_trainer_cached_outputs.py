"""Training on hidden states and on the largest logits that were kept, against asking the teacher at each step."""

import pytest
import torch
from helpers.small_runs import config, examples, flat, logged, make_trainer, models
from helpers.tiny_images import NARROW, WIDE, tensors, tiny_classifier
from helpers.tiny_lm import language_models, lm_trainer, rows

from hf_kd_lambda.balancing.votes import count_votes, soft_votes
from hf_kd_lambda.losses.base import TeacherBatch, TopLogits
from hf_kd_lambda.teacher.collator import unpacked
from hf_kd_lambda.trainer.config import DistillationConfig

HIDDEN = {
    "soft_targets": 1.0,
    "hidden_mse": {"weight": 0.5, "layers": "last"},
    "pkd": {"weight": 0.3, "layers": "last"},
    "embedding_mse": 0.1,
}
FP16 = 2e-3  # relative, of losses; λ is a ratio of gradients and a little farther off


class CountingHook:
    """Has no values that would be a part of the teacher's fingerprint."""

    def __init__(self, trainer, calls):
        self.trainer, self.calls = trainer, calls

    def __call__(self, *_):
        self.calls.append(self.trainer.is_in_train)

    def __reduce__(self):
        return CountingHook, (None, None)


def count_calls(trainer):
    """A list that grows with each call of the teacher: whether it came from within the loop of training."""
    calls = []
    trainer.teacher.register_forward_hook(CountingHook(trainer, calls))
    return calls


def kept_in(folder, **settings):
    return {"teacher_cache_dir": str(folder / "cache"), **settings}


def run(trainer):
    calls = count_calls(trainer)
    trainer.train()
    return trainer, calls


def assert_near(kept, online, rel=FP16):
    for name, tolerance in (("task_loss", rel), ("kd_loss", rel), ("lambda", 5 * rel)):
        values, expected = (logged(run.state.log_history, name) for run in (kept, online))
        assert len(set(expected)) > 1
        assert values == pytest.approx(expected, rel=tolerance)
    assert (flat(kept.model) - flat(online.model)).norm() < rel * flat(online.model).norm()


# --- hidden states


def bert_trainer(folder, **settings):
    data = examples(12)
    return make_trainer(config(folder, **settings), *models(), examples(), eval_dataset=data)


def test_kept_hidden_states_train_as_the_teacher_does(tmp_path):
    settings = {"kd_losses": HIDDEN, "num_train_epochs": 2, "eval_strategy": "epoch"}
    online, _ = run(bert_trainer(tmp_path, cache_teacher=False, **settings))
    kept, calls = run(bert_trainer(tmp_path, **kept_in(tmp_path, cache_hidden_states=True, **settings)))
    assert True not in calls
    assert_near(kept, online)
    for name in ("eval_kd_loss", "eval_kd_loss/pkd", "eval_teacher_agreement"):
        found, expected = (logged(run.state.log_history, name) for run in (kept, online))
        assert found == pytest.approx(expected, rel=FP16)
    # 2 layers of the student learn from the last 2 of 4, and from the embeddings.
    needed = {f"hidden_states.{layer}" for layer in (0, 3, 4)}
    assert set(unpacked(kept.train_dataset[0]["teacher_outputs"])) == needed

    later, calls = run(bert_trainer(tmp_path, **kept_in(tmp_path, cache_hidden_states=True, **settings)))
    assert calls == []
    assert_near(later, kept, rel=1e-6)


@pytest.mark.parametrize("cached", [True, False])
def test_outputs_that_were_kept_for_other_losses_are_not_taken_for_those_needed(tmp_path, cached):
    def trainer(data, layers, **settings):
        losses = {"hidden_mse": {"layers": layers}}
        return make_trainer(config(tmp_path, kd_losses=losses, max_steps=2, **settings), *models(), data)

    kept = kept_in(tmp_path, cache_hidden_states=True)
    first = trainer(examples(), [[0, 1]], **kept)
    assert first.cache_teacher()
    again, calls = run(trainer(first.train_dataset, [[0, 3]], **(kept if cached else {"cache_teacher": False})))
    online, _ = run(trainer(examples(), [[0, 3]], cache_teacher=False))
    assert (True in calls) != cached
    losses = [logged(trainer.state.log_history, "kd_loss") for trainer in (again, online)]
    assert losses[0] == pytest.approx(losses[1], rel=FP16)


def test_feature_maps_are_kept_as_well(tmp_path):
    def trained(**settings):
        args = config(tmp_path, kd_losses={"feature_mse": 1.0}, **settings)
        return run(make_trainer(args, tiny_classifier(WIDE), tiny_classifier(NARROW, seed=1), tensors(48)))

    online, _ = trained(cache_teacher=False)
    kept, calls = trained(**kept_in(tmp_path, cache_hidden_states=True))
    assert True not in calls
    assert_near(kept, online)


def test_the_size_is_stated_before(tmp_path, caplog):
    run(bert_trainer(tmp_path, **kept_in(tmp_path, cache_hidden_states=True, kd_losses=HIDDEN)))
    (message, *_) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("caching")]
    *_, size, unit = message.split()
    assert message.startswith("caching teacher_logits, teacher_outputs, teacher_inputs_digest of 48 examples")
    assert unit == "MB"
    assert float(size) == pytest.approx(48 * 3 * 10 * 32 * 2 / 1e6, rel=0.2)  # and the names of what is kept


def test_without_the_setting_the_teacher_answers_and_the_setting_is_named(tmp_path, caplog):
    _, calls = run(bert_trainer(tmp_path, **kept_in(tmp_path, kd_losses=HIDDEN)))
    assert calls == [True] * 6
    assert "hidden_states (set cache_hidden_states to cache them)" in caplog.text


def test_attention_maps_are_asked_for_whatever_the_setting(tmp_path, caplog):
    settings = kept_in(tmp_path, cache_hidden_states=True, kd_losses={"hidden_mse": 1, "attention_maps": 1})
    _, calls = run(bert_trainer(tmp_path, **settings))
    assert calls == [True] * 6
    assert "kd_losses need more than its logits: attentions, hidden_states." in caplog.text


# --- the largest logits of language models


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_all_logits_kept_as_the_largest_train_as_the_teacher_does(tmp_path, temperature):
    settings = {"temperature": temperature, "num_train_epochs": 2}
    online, _ = run(lm_trainer(tmp_path, *language_models(), **settings))
    kept, calls = run(lm_trainer(tmp_path, *language_models(), **kept_in(tmp_path, cache_top_logits=95, **settings)))
    assert True not in calls
    assert "teacher_logits" not in kept.train_dataset.column_names
    assert_near(kept, online)


def test_the_largest_logits_alone_give_a_smaller_loss_and_the_same_agreement(tmp_path):
    settings = {"kwargs": {"eval_dataset": rows(12)}, "eval_strategy": "epoch"}
    online, _ = run(lm_trainer(tmp_path, *language_models(), **settings))
    kept, calls = run(lm_trainer(tmp_path, *language_models(), **kept_in(tmp_path, cache_top_logits=8), **settings))
    assert True not in calls
    first, whole = (logged(run.state.log_history, "kd_loss")[0] for run in (kept, online))
    assert 0.5 * whole < first < 0.999 * whole
    assert logged(kept.state.log_history, "eval_kd_loss")[0] < logged(online.state.log_history, "eval_kd_loss")[0]
    online.model.load_state_dict(kept.model.state_dict())
    expected = online.evaluate()["eval_teacher_agreement"]
    assert logged(kept.state.log_history, "eval_teacher_agreement") == [pytest.approx(expected)]


def test_the_largest_logits_and_hidden_states_go_together(tmp_path):
    settings = {"kd_losses": {"soft_targets": 1.0, "hidden_mse": 1.0}}
    online, _ = run(lm_trainer(tmp_path, *language_models(), **settings))
    settings |= {"cache_hidden_states": True, "cache_top_logits": 95}
    kept, calls = run(lm_trainer(tmp_path, *language_models(), **kept_in(tmp_path, **settings)))
    assert True not in calls
    assert_near(kept, online)


def test_hidden_states_of_a_language_model_are_not_kept_alone(tmp_path):
    settings = {"kd_losses": {"hidden_mse": 1.0}, "cache_hidden_states": True}
    with pytest.raises(ValueError, match=r"cache_hidden_states=True: for a language model.*also set cache_top_logits"):
        lm_trainer(tmp_path, *language_models(), **settings)


def test_votes_are_taken_of_the_largest_logits(tmp_path):
    settings = {"lambda_rule": "evidence", "lambda_rule_kwargs": {"gamma": 1.0}}
    online, _ = run(lm_trainer(tmp_path, *language_models(), **settings))
    kept, _ = run(lm_trainer(tmp_path, *language_models(), **kept_in(tmp_path, cache_top_logits=60, **settings)))
    found, expected = (logged(run.state.log_history, "odds") for run in (kept, online))
    assert len(set(expected)) >= 4
    assert found == pytest.approx(expected, rel=0.02)


def test_votes_need_all_logits_of_a_chunk_of_tokens_alone(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 5, 9, generator=generator)
    labels = torch.randint(9, (6, 5), generator=generator)
    top, indices = (teacher / 2).log_softmax(-1).topk(4)
    outputs = TeacherBatch(None, TopLogits(top, indices, classes=9, temperature=2.0))
    whole = soft_votes(student, outputs.logits, labels)
    sizes = []

    def counted(*chunk):
        sizes.append(len(chunk[-1]))
        return soft_votes(*chunk)

    monkeypatch.setattr("hf_kd_lambda.losses.functional.chunked.CHUNK_LOGITS", 9 * 7)
    monkeypatch.setattr("hf_kd_lambda.balancing.votes.soft_votes", counted)
    torch.testing.assert_close(count_votes(student, outputs, labels), whole)
    assert sizes == [7, 7, 7, 7, 2]


def test_examples_that_nothing_was_kept_of_are_asked_of_the_teacher(tmp_path):
    trainer, calls = run(lm_trainer(tmp_path, *language_models(), **kept_in(tmp_path, cache_top_logits=8)))
    before = len(calls)
    assert trainer.evaluate(rows(8))["eval_kd_loss"] > 0
    assert len(calls) == before + 1


# --- refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cache_top_logits": 0}, "cache_top_logits=0 must be at least 1"),
        ({"cache_top_logits": 8, "cache_teacher": False}, "cache_top_logits=8 needs cache_teacher: set it to True"),
        ({"cache_hidden_states": True, "cache_teacher": False}, "cache_hidden_states=True needs cache_teacher"),
        (
            {"cache_top_logits": 8, "kd_losses": {"soft_targets": 1, "reverse_kl": 1}},
            "cache_top_logits=8 is enough for soft_targets, but not for reverse_kl: leave out either",
        ),
    ],
    ids=str,
)
def test_settings_that_contradict_each_other_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        DistillationConfig(output_dir=str(tmp_path), **settings)


def test_few_logits_are_kept_whole(tmp_path):
    with pytest.raises(ValueError, match=r"cache_top_logits=2 is for language models .* has 3 output\(s\): leave it"):
        bert_trainer(tmp_path, cache_top_logits=2)
    with pytest.raises(ValueError, match=r"cache_top_logits=96 .* LlamaForCausalLM, has 95 output\(s\): leave it out"):
        lm_trainer(tmp_path, *language_models(), cache_top_logits=96)
