"""What the examples of the guides expect in the working folder: models and csv files."""

from pathlib import Path

from helpers.small_jobs import WORDS, write_reviews
from helpers.tiny import save_checkpoint, tiny_bert
from helpers.tiny_lm import text_tokenizer, tiny_lm
from helpers.tiny_spans import span_bert
from transformers import set_seed


def write_guide_files(folder: Path) -> None:
    """Write my-teacher, my-reader, my-language-model, train.csv and validation.csv."""
    set_seed(0)
    names = list(WORDS)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    save_checkpoint(tiny_bert(**labels), folder / "my-teacher")
    save_checkpoint(span_bert(), folder / "my-reader")
    tiny_lm().save_pretrained(folder / "my-language-model")
    text_tokenizer().save_pretrained(folder / "my-language-model")
    for split in write_reviews(folder).values():
        if (path := Path(split)).is_file():
            head, *rows = path.read_text(encoding="utf-8").splitlines()
            path.write_text("\n".join([head.replace("review,kind", "text,label"), *rows]) + "\n", encoding="utf-8")
