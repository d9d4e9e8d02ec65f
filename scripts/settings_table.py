"""The README's table of settings, from the `help` of the fields: `python scripts/settings_table.py` rewrites it."""

import dataclasses
from pathlib import Path

from transformers import TrainingArguments

from hf_kd_lambda import DataArguments, DistillationConfig, ModelArguments

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- settings: begin -->\n", "<!-- settings: end -->\n"


def settings_table() -> str:
    """Markdown, a row for each setting that is not TrainingArguments' own."""
    inherited = {field.name for field in dataclasses.fields(TrainingArguments)}
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for group in (DistillationConfig, ModelArguments, DataArguments):
        for field in dataclasses.fields(group):
            if field.name not in inherited:
                default = "required" if field.default is dataclasses.MISSING else f"`{field.default}`"
                text = field.metadata["help"].replace("|", "\\|")
                rows.append(f"| `{field.name}` | {default} | {text} |")
    return "\n".join(rows) + "\n"


def with_table(readme: str) -> str:
    """The README with its table brought up to date."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + settings_table() + END + after


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
