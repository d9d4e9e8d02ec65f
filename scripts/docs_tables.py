"""The README's table of settings, from the `help` of the fields: `python scripts/settings_table.py` rewrites it."""

import dataclasses
from pathlib import Path

from hf_kd_lambda import DataArguments, DistillationConfig, ModelArguments

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- settings: begin -->\n", "<!-- settings: end -->\n"


GROUPS = {
    "`DistillationConfig`": DistillationConfig,
    "`scripts/distill.py`: models": ModelArguments,
    "`scripts/distill.py`: data": DataArguments,
}


def settings_table() -> str:
    """Markdown, a row for each setting that is not TrainingArguments' own or has another default."""
    return "\n".join(f"{_table(name, group)}\n" for name, group in GROUPS.items())


def _table(name: str, group: type) -> str:
    rows = [f"| {name} | default | meaning |", "|---|---|---|"]
    fields = {field.name: field for field in dataclasses.fields(group)}
    for setting in group.__annotations__:  # of the class itself, in its order
        default, text = fields[setting].default, fields[setting].metadata["help"].replace("|", "\\|")
        rows.append(f"| `{setting}` | {'required' if default is dataclasses.MISSING else f'`{default}`'} | {text} |")
    return "\n".join(rows)


def with_table(readme: str) -> str:
    """The README with its table brought up to date."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + settings_table() + END + after


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
