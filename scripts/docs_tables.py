"""The tables of settings, rules, losses and log keys, generated from the code. `fill_tables.py` writes them."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from hf_kd_lambda import DataArguments, DistillationConfig, ModelArguments
from hf_kd_lambda.balancing.rules import RULES
from hf_kd_lambda.balancing.rules.base import Rule
from hf_kd_lambda.losses import functional
from hf_kd_lambda.losses.base import KDLoss
from hf_kd_lambda.losses.registry import KD_LOSSES
from hf_kd_lambda.studies.comparison.regimes import REGIMES
from hf_kd_lambda.utils.log_keys import EVALUATION_KEYS, LIMITS, LOG_KEYS

PAPERS = Path(__file__).parents[1] / "docs" / "papers.yaml"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; bars within a cell are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def settings_table(group: type) -> str:
    """A row for each setting that a dataclass adds or gives another default: name, default and `help`."""
    fields = {field.name: field for field in dataclasses.fields(group)}
    own = [fields[name] for name in group.__annotations__ if name in fields]  # in the order of the source
    rows = [
        (f"`{field.name}`", f"`{field.default}`", field.metadata["help"]) for field in own if "help" in field.metadata
    ]
    return markdown_table(("setting", "default", "meaning"), rows)


def rules_table() -> str:
    """A row for each rule: weights and summary from the docstrings, needed inputs, and paper."""
    papers = _papers("rules")
    rows = [
        (
            _name(name, rule),
            _first_line(rule.weights).rstrip("."),
            _summary(rule) + _needs(rule),
            papers.get(name, "–"),
        )
        for name, rule in RULES.items()
    ]
    return markdown_table(("rule, hyper-parameters", "weights (w_task, w_kd)", "in words", "source"), rows)


def losses_table() -> str:
    """A row for each KD loss: its summary as in the docstring, the outputs it compares, and its paper."""
    papers = _papers("losses")
    rows = [
        (_name(name, loss), _loss_summary(loss), _compared(loss), papers.get(name, "–"))
        for name, loss in KD_LOSSES.items()
    ]
    return markdown_table(("loss, hyper-parameters", "in words", "compares", "source"), rows)


def keys_table(keys: Mapping[str, str]) -> str:
    """A row for each key that training or an evaluation logs."""
    return markdown_table(("key", "meaning"), [(f"`{key}`", meaning) for key, meaning in keys.items()])


def limits_table() -> str:
    """A row for each reason why λ can differ from the rule's λ."""
    rows = [(f"`{limit.key}`", f"λ was {limit.words}", limit.advice) for limit in LIMITS.values()]
    return markdown_table(("key", "meaning", "what you can do"), rows)


def regimes_table() -> str:
    """A row for each regime of a comparison: its fixed amounts, and its summary as in the docstring."""
    rows = []
    for name, regime in REGIMES.items():
        parameters = inspect.signature(regime).parameters.values()
        settings = [f"`{p.name}={p.default}`" for p in parameters if p.default is not p.empty]
        rows.append((" ".join([f"**`{name}`**", *settings]), _summary(regime)))
    return markdown_table(("regime, amounts (fixed)", "training examples"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "settings_distillation": partial(settings_table, DistillationConfig),
    "settings_models": partial(settings_table, ModelArguments),
    "settings_data": partial(settings_table, DataArguments),
    "rules": rules_table,
    "losses": losses_table,
    "log_keys": partial(keys_table, LOG_KEYS),
    "evaluation_keys": partial(keys_table, EVALUATION_KEYS),
    "limits": limits_table,
    "regimes": regimes_table,
}


def _papers(kind: str) -> dict[str, str]:
    return yaml.safe_load(PAPERS.read_text(encoding="utf-8"))[kind]


def _first_line(documented: Any) -> str:
    return (inspect.getdoc(documented) or "").splitlines()[0]


def _summary(documented: Any) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(documented) or "").split("\n\n")[0].split())


def _loss_summary(loss: type[KDLoss]) -> str:
    """The summary of the function that the docstring of a loss refers to ("see `f`"), else its own summary."""
    summary = _summary(loss)
    reference = re.search(r"[Ss]ee `(\w+)`", summary)
    if reference is None:
        return summary
    return _summary(getattr(functional, reference[1]))


def _compared(loss: type[KDLoss]) -> str:
    return ", ".join(name.replace("_", " ") for name in loss.needs) or "logits"


def _name(name: str, kind: type[Rule] | type[KDLoss]) -> str:
    """The name, and the hyper-parameters with their defaults, except `weight`, which every KD loss has."""
    settings = [f"`{field.name}={field.default!r}`" for field in dataclasses.fields(kind) if field.name != "weight"]
    return " ".join([f"**`{name}`**", *settings])


def _needs(rule: type[Rule]) -> str:
    """The inputs of a rule other than a, b and c, as a sentence."""
    needs = " and ".join(name.replace("_", " ") for name in rule.needs)
    if not rule.measures:
        return f" Needs no gradients{', but ' + needs if needs else ''}."
    return f" Needs {needs}." if needs else ""
