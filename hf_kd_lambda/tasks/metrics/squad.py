"""Exact match and F1 of answers, as in the official evaluation script of SQuAD 2.0.

Written after evaluate-v2.0.py of https://rajpurkar.github.io/SQuAD-explorer (Rajpurkar et al. 2018). For answerable
questions, the scores are those of the script of SQuAD 1.1, unless an answer is nothing but articles and punctuation.
Scores are shares, not percentages.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalised(answer: str) -> str:
    """An answer in lower case, without punctuation, articles and superfluous white space."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, reference: str) -> float:
    """1 if both are the same once normalised, else 0."""
    return float(normalised(answer) == normalised(reference))


def f1(answer: str, reference: str) -> float:
    """Harmonic mean of precision and recall of the words; without words in either, 1 if both have none."""
    found, wanted = normalised(answer).split(), normalised(reference).split()
    if not found or not wanted:
        return float(found == wanted)
    common = (Counter(found) & Counter(wanted)).total()
    return 2 * common / (len(found) + len(wanted))


def squad_metrics(answers: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Means over questions, of the best reference each; where some are unanswerable, also of either kind.

    Args:
        answers: empty where a model abstains.
        references: reference answers of each question; none for an unanswerable one.
    """
    is_answerable = np.array([bool(texts) for texts in references])
    scores = {
        name: np.array([_best(score, *pair) for pair in zip(answers, references, strict=True)])
        for name, score in (("exact_match", exact_match), ("f1", f1))
    }
    metrics = {name: float(values.mean()) for name, values in scores.items()}
    if not is_answerable.all():
        kinds = {"answerable": is_answerable, "unanswerable": ~is_answerable}
        metrics |= {f"f1_{kind}": float(scores["f1"][rows].mean()) for kind, rows in kinds.items() if rows.any()}
    return metrics | {"score": metrics["f1"]}


def _best(score: Callable[[str, str], float], answer: str, references: Sequence[str]) -> float:
    """The highest score; references without a word do not count, as in the script."""
    return max(score(answer, reference) for reference in [text for text in references if normalised(text)] or [""])
