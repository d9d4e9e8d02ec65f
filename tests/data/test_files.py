"""Files of examples: what is read from each format, and how what is wrong is named."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from hf_kd_lambda.data.files import read_file
from hf_kd_lambda.data.sources import Column

COLUMNS = [Column("text", "text", "text_column"), Column("label", "label", "label_column")]
FORMATS = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def read(folder, name, content, columns=COLUMNS, delimiter=None):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_file("train_file", str(path), FORMATS, columns, delimiter)


def rows(source):
    return [(row["text"], row.get("label")) for row in source.rows]


# --- what is read


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,label,x\ngood,1,\n\nbad,0,7\n"),
        ("a.csv", '\ufefftext,label\r\ngood,1\r\n"bad",0\r\n'),
        ("a.csv", "text,label\rgood,1\rbad,0\r"),
        ("a.tsv", "label\ttext\n1\tgood\n0\tbad\n"),
        ("a.jsonl", '{"text": "good", "label": 1, "x": [{}]}\n\n{"label": 0, "text": "bad"}'),
        ("a.json", '[{"text": "good", "label": 1},\n {"text": "bad", "label": 0}]'),
        ("a.json", '{"text": "good", "label": 1}\n{"text": "bad", "label": 0}\n'),
    ],
)
def test_formats(tmp_path, name, content):
    assert rows(read(tmp_path, name, content)) == [("good", 1), ("bad", 0)]


def test_another_delimiter(tmp_path):
    assert rows(read(tmp_path, "a.csv", "text;label\na, b;1\n", delimiter=";")) == [("a, b", 1)]
    with pytest.raises(ValueError, match=r"'text' and no column 'label', only text;label: .* Or set delimiter"):
        read(tmp_path, "a.csv", "text;label\na;1\n")


def test_texts_stay_texts(tmp_path):
    texts = ["2021-01-01", "1e5", "True", "NA", "nan", "", " x "]
    content = "\n".join(["text,label", *(f'"{text}",{i}' for i, text in enumerate(texts))])
    assert [text for text, _ in rows(read(tmp_path, "a.csv", content))] == texts
    lines = "\n".join(json.dumps({"text": "2021-01-01", "label": "2021-01-01"}) for _ in range(3))
    assert rows(read(tmp_path, "a.jsonl", lines)) == [("2021-01-01", "2021-01-01")] * 3


@pytest.mark.parametrize(
    ("cells", "labels"),
    [
        (["10", "2"], [10, 2]),
        (["1", "2.5"], [1.0, 2.5]),
        (["1e2", "-inf"], [100.0, float("-inf")]),
        (["1", "x"], ["1", "x"]),
        (["1", ""], [1, None]),
        (["1", " "], [1, None]),
        (["x", "\u00a0"], ["x", None]),
        (["x", "nan"], ["x", None]),
        (["1_0", "2"], ["1_0", "2"]),
        (["9" * 30, "1"], [1e30, 1.0]),
        (["0012", "450"], ["0012", "450"]),
        (["00", "0.5"], ["00", "0.5"]),
        (["0", "-0", "10"], [0, 0, 10]),
    ],
)
def test_labels_of_a_csv_are_numbers_where_all_are(tmp_path, cells, labels):
    content = "\n".join(["text,label", *(f"a,{cell}" for cell in cells)]) + "\n"
    assert [label for _, label in rows(read(tmp_path, "a.csv", content))] == labels


@pytest.mark.parametrize("blank", [";;", " ; ;\t", ""])
def test_blank_rows_of_a_spreadsheet_are_no_examples(tmp_path, blank):
    content = f"text;label;x\n{blank}\ngood;1;2\n;0;\n{blank}\n{blank}\n"
    source = read(tmp_path, "a.csv", content, delimiter=";")
    assert rows(source) == [("good", 1), ("", 0)]
    assert source.where(0).endswith("row 3 (the header is row 1)")


def test_what_another_version_has_read_is_read_again(tmp_path, monkeypatch):
    content = "text,label\na,0\nb,1\n"
    first, again = (read(tmp_path, "a.csv", content).rows.cache_files for _ in range(2))
    assert first == again
    monkeypatch.setattr("hf_kd_lambda.data.files.version", lambda package: "another")
    assert read(tmp_path, "a.csv", content).rows.cache_files != first


def test_a_long_text_and_lines_in_a_text(tmp_path):
    long = "word " * 40_000
    source = read(tmp_path, "a.csv", f'text,label\n"{long}",0\n"two\nlines",1\nlast,2\n')
    assert rows(source) == [(long, 0), ("two\nlines", 1), ("last", 2)]
    assert source.where(2).endswith("row 4 (the header is row 1)")


def test_a_quoted_text_of_a_tsv_may_have_tabs_or_lines(tmp_path):
    source = read(tmp_path, "a.tsv", 'text\tlabel\n"two\nlines"\t0\n"a\ttab"\t1\n"""Hello"" he said"\t2\n')
    assert rows(source) == [("two\nlines", 0), ("a\ttab", 1), ('"Hello" he said', 2)]


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("a.csv", "text,label\na,0\n\nb,1\n", "row 4 (the header is row 1)"),
        ("a.tsv", "text\tlabel\na\t0\nb\t1\n", "row 3 (the header is row 1)"),
        ("a.jsonl", '{"text": "a", "label": 0}\n\n{"text": "b", "label": 1}\n', "line 3"),
    ],
)
def test_rows_are_counted_as_people_do(tmp_path, name, content, where):
    assert read(tmp_path, name, content).where(1) == f"train_file='{tmp_path / name}', {where}"


def test_a_name_with_characters_of_patterns_is_a_name(tmp_path):
    for name, text in (("a1.csv", "wrong"), ("a[1].csv", "right"), ("a*.csv", "star")):
        (tmp_path / name).write_text(f"text,label\n{text},0\n")
    assert rows(read_file("train_file", str(tmp_path / "a[1].csv"), FORMATS, COLUMNS)) == [("right", 0)]
    assert rows(read_file("train_file", str(tmp_path / "a*.csv"), FORMATS, COLUMNS)) == [("star", 0)]
    for name, text in (("a1.parquet", "wrong"), ("a[1].parquet", "right")):
        Dataset.from_dict({"text": [text], "label": [0]}).to_parquet(tmp_path / name)
    assert rows(read_file("train_file", str(tmp_path / "a[1].parquet"), FORMATS, COLUMNS)) == [("right", 0)]


def test_a_file_that_changes_is_read_again_and_one_that_does_not_is_not(tmp_path):
    first = read(tmp_path, "a.csv", "text,label\na,0\n")
    again = read(tmp_path, "a.csv", "text,label\na,0\n")
    assert again.rows.cache_files == first.rows.cache_files != []
    assert rows(read(tmp_path, "a.csv", "text,label\nb,0\n")) == [("b", 0)]


# --- what is refused


GOOD = '{"text": "a", "label": 0}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "is empty: it has no rows"),
        ("a.csv", "text,label\n", "is empty: it has no rows"),
        ("a.csv", "text,label,text\na,0,b\n", r"row 1 .*: the header names 'text' twice"),
        ("a.csv", "text,label\na,0\nb, c,1\n", r"row 3 .*: there are 3 fields, in the header 2: put quotes"),
        ("a.csv", "text,label\na,0\nb\n", r"row 3 .*: there are 1 fields, in the header 2: a cell is missing"),
        ("a.csv", "text,label\na,0\nb,1\nc,NA\n", r"row 4 .*: column 'label' holds a word such as NA among numbers"),
        ("a.csv", "text,label\na,N/A\nb,3.5\n", r"row 2 .*: column 'label' holds a word such as NA among numbers"),
        (
            "a.json",
            '{"train": [{"text": "a"}],\n "test": []}',
            r"the file is one object of 'train', 'test': write a list",
        ),
        ("a.json", '{"data":\n [{"text": "a", "label": 0}]}', "one object of 'data': write a list of rows"),
        ("a.csv", "text;label\na, b;0\n", r"row 2 .*: there are 2 fields, in the header 1: .*or set delimiter to ';'"),
        ("a.csv", 'text,label\na,0\n"b,1\nc,1\n', r"row 3 .*: it is no valid csv .*check the quotes"),
        ("a.tsv", 'text\tlabel\na\t0\n"Hello\t1\nb\t0\nso "\t1\n', r"row 3 .*: a quotation mark .* joins rows"),
        ("a.tsv", 'text\tlabel\r"Hello\t1\rso "\t1\r', r"row 2 .*: a quotation mark .* joins rows"),
        ("a.tsv", 'text\tlabel\n"Hello\t1\n"\t0\n', r"row 2 .*: a quotation mark .* joins rows"),
        ("a.csv", b"text,label\na,0\ncaf\xe9,1\n", r"row 3 .*: the byte 0xe9 is no UTF-8"),
        ("a.csv", "text,label\na,0\n".encode("utf-16"), r"row 1 .*: the byte 0xff is no UTF-8"),
        ("a.csv", b"\x00\x01\x02PNG", "is empty"),
        ("a.csv", "words,label\na,0\n", "has no column 'text', only words, label: set text_column"),
        ("a.jsonl", "", "is empty: it has no rows"),
        ("a.jsonl", GOOD + "{broken", "line 2: it is no valid JSON"),
        ("a.jsonl", GOOD + "[1, 2]", "line 2: .* is no JSON object"),
        ("a.jsonl", GOOD + '"text"', "line 2: 'text' is no JSON object"),
        ("a.jsonl", GOOD + '{"text": "a", "text": "b", "label": 1}', "line 2: .*'text' is there twice"),
        ("a.jsonl", GOOD + '{"text": "a", "label": ' + "[" * 100_000 + "]" * 100_000 + "}", "line 2: .*nested"),
        ("a.jsonl", GOOD + '{"text": "a", "label": 1' + "0" * 5000 + "}", "line 2: it is no valid JSON"),
        ("a.jsonl", GOOD + '{"text": "a", "label": 1' + "0" * 50 + "}", "line 2: column 'label' holds .*64 bits"),
        ("a.jsonl", GOOD + '{"text": "a", "label": {"a": 1}}', "line 2: column 'label' holds {'a': 1}, which is no"),
        ("a.jsonl", GOOD + '{"text": "a", "label": "x"}', "line 2: column 'label' has type string, above int64"),
        ("a.jsonl", GOOD + '{"text": "a", "label": [1, "x"]}', "line 2: column 'label' holds .*several types"),
        ("a.jsonl", GOOD + '{"text": "\\ud800", "label": 1}', "line 2: column 'text' holds .*surrogate"),
        ("a.jsonl", GOOD.encode() + b'{"text": "\xff", "label": 1}', "line 2: the byte 0xff is no UTF-8"),
        ("a.json", "[]", "is empty: it has no rows"),
        ("a.json", '[{"text": "a", "label": 0}, 5]', "line, item or question 2: 5 is no JSON object"),
        ("a.json", '[{"text": "a"', "line, item or question 1: it is no valid JSON"),
        ("a.parquet", b"PAR1", "cannot be read"),
        ("a.parquet", b"", "cannot be read"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=f"^train_file='{tmp_path / name}'.*{message}") as error:
        read(tmp_path, name, content)
    assert len(str(error.value)) < 600 + len(str(tmp_path))


def test_only_the_columns_of_a_parquet_that_are_read_need_a_type_of_datasets(tmp_path):
    maps = pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64()))
    pq.write_table(pa.table({"text": ["x", "y"], "label": [0, 1], "other": maps}), tmp_path / "a.parquet")
    path = str(tmp_path / "a.parquet")
    assert rows(read_file("train_file", path, FORMATS, COLUMNS)) == [("x", 0), ("y", 1)]
    with pytest.raises(ValueError, match=r"train_file=.*a\.parquet': Arrow type map"):
        read_file("train_file", path, FORMATS, [Column("other", "text", "text_column"), COLUMNS[1]])


def test_a_parquet_with_two_columns_of_one_name(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array([0]), pa.array(["b"])], names=["text", "label", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"train_file=.*a\.parquet' has two columns 'text'"):
        read_file("train_file", str(tmp_path / "a.parquet"), FORMATS, COLUMNS)


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(ValueError, match="does not exist, or is no file"):
        read_file("train_file", str(tmp_path / "a.csv"), FORMATS, COLUMNS)


@pytest.mark.parametrize("cells", [["NA", "EU"], ["none", "some", "2"]])
def test_words_for_what_is_missing_are_names_among_names(tmp_path, cells):
    content = "\n".join(["text,label", *(f"a,{cell}" for cell in cells)])
    assert [label for _, label in rows(read(tmp_path, "a.csv", content))] == cells
