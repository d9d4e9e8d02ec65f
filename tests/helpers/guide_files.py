"""What the examples of the guides expect in the working folder: models and csv files."""

from pathlib import Path

import pandas as pd
from helpers.small_jobs import WORDS, write_reviews
from helpers.tiny import save_checkpoint, tiny_bert
from helpers.tiny_lm import text_tokenizer, tiny_lm
from helpers.tiny_spans import span_bert
from transformers import set_seed


def write_guide_files(folder: Path) -> None:
    """Write models, csv files, and what runs leave: a student and a label_quality.parquet."""
    set_seed(0)
    names = list(WORDS)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    save_checkpoint(tiny_bert(problem_type="single_label_classification", **labels), folder / "my-teacher")
    save_checkpoint(tiny_bert(layers=2, max_position_embeddings=128, **labels), folder / "runs" / "reviews")
    save_checkpoint(span_bert(), folder / "my-reader")
    tiny_lm().save_pretrained(folder / "my-language-model")
    text_tokenizer().save_pretrained(folder / "my-language-model")
    for split in write_reviews(folder).values():
        if (path := Path(split)).is_file():
            head, *rows = path.read_text(encoding="utf-8").splitlines()
            path.write_text("\n".join([head.replace("review,kind", "text,label"), *rows]) + "\n", encoding="utf-8")
    columns = {"text": "a film", "label": "rant", "teacher": "praise", "label_wrong": [0.1, 0.9, 0.8]}
    pd.DataFrame({"review": ["a good film", "bad " * 200]}).to_csv(folder / "new_reviews.csv", index=False)
    (folder / "runs" / "student").mkdir(parents=True)
    pd.DataFrame({"row": range(3), **columns}).to_parquet(folder / "runs" / "student" / "label_quality.parquet")
