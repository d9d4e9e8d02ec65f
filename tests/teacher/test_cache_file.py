"""Outputs on disk: in the examples' order, bit by bit, and whole or not there."""

import json
import multiprocessing
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hf_kd_lambda.teacher.cache_file import CacheUnavailableError, load_outputs, save_outputs
from hf_kd_lambda.utils.fingerprint import fingerprint

LENGTHS = [2, 5, 1, 4, 3]
BATCHES = [[1, 3], [4, 0, 2]]
REPETITIONS = 15


def columns_of(indices):
    """Logits and hidden states of each example, which identify it."""
    return {
        "teacher_logits": [torch.tensor([index, 0.1, -index]) for index in indices],
        "teacher_hidden_1": [torch.full((LENGTHS[index], 4), index / 3).half() for index in indices],
    }


def write(folder, name):
    """Keep the outputs of all examples under a name."""
    save_outputs(folder, name, BATCHES, map(columns_of, BATCHES), LENGTHS)


@pytest.fixture
def kept(tmp_path):
    write(tmp_path, "kept")
    return tmp_path / "kept"


def load(entry):
    return load_outputs(entry.parent, entry.name, len(LENGTHS))


def assert_whole(entry):
    expected = columns_of(range(len(LENGTHS)))
    outputs = load(entry).with_format("torch")
    assert outputs.column_names == list(expected)
    for column, rows in expected.items():
        assert all(torch.equal(kept, row) for kept, row in zip(outputs[column][:], rows, strict=True))


# --- what is read is what was written


def test_outputs_come_back_in_the_examples_order_whatever_the_batches(kept):
    assert [index for batch in BATCHES for index in batch] != list(range(len(LENGTHS)))
    assert_whole(kept)
    assert [entry.name for entry in kept.parent.iterdir()] == ["kept"]


def test_hidden_states_of_differing_lengths_are_kept_bit_by_bit(tmp_path):
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    rows = list(bits.view(torch.float16).view(-1, 8).split([1, 7, 2000, 0, 6184]))
    lengths = [len(row) for row in rows]
    save_outputs(tmp_path, "hidden", [range(5)], [{"teacher_hidden_1": rows}], lengths)
    column = load_outputs(tmp_path, "hidden", 5).with_format("arrow")[:]["teacher_hidden_1"].combine_chunks()
    assert column.value_lengths().to_pylist() == lengths
    values = column.flatten().flatten().to_numpy(zero_copy_only=False)
    assert values.dtype == "float16"
    assert torch.equal(torch.tensor(values).view(torch.int16), bits), "NaN, infinities and subnormals included"


def test_the_files_of_two_fingerprints_do_not_mix(kept):
    batch = {"teacher_logits": list(torch.zeros(2, 3))}
    save_outputs(kept.parent, "other", [[0, 1]], [batch], [1, 1])
    assert load_outputs(kept.parent, "other", 2)["teacher_logits"][:] == [[0.0] * 3] * 2
    assert_whole(kept)


def test_a_folder_of_another_user_has_no_outputs(tmp_path, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", denied)
    assert load_outputs(tmp_path, "kept", 5) is None


def test_outputs_that_were_never_kept_are_missed_without_a_warning(tmp_path, caplog):
    assert load_outputs(tmp_path, "kept", 3) is None
    assert not caplog.records


# --- corrupt or foreign


def truncate(entry):
    data = entry / "outputs.arrow"
    data.write_bytes(data.read_bytes()[:-40])


def flip(entry):
    data = bytearray((entry / "outputs.arrow").read_bytes())
    data[len(data) // 2] ^= 1
    (entry / "outputs.arrow").write_bytes(data)


def lose_record(entry):
    (entry / "outputs.json").unlink()


def lose_data(entry):
    (entry / "outputs.arrow").unlink()


def garble_record(entry):
    (entry / "outputs.json").write_bytes(b'{"examples": \xff')


def list_record(entry):
    (entry / "outputs.json").write_text("[1, 2]")


def empty_record(entry):
    (entry / "outputs.json").write_text("{}")


def foreign(entry):
    shutil.rmtree(entry)
    save_outputs(entry.parent, entry.name, [[0, 1]], [{"teacher_logits": list(torch.zeros(2, 3))}], [1, 1])


def replace_with_file(entry):
    shutil.rmtree(entry)
    entry.write_text("no folder")


def empty(entry):
    shutil.rmtree(entry)
    entry.mkdir()


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        flip,
        lose_record,
        lose_data,
        garble_record,
        list_record,
        empty_record,
        foreign,
        replace_with_file,
        empty,
    ],
)
def test_what_is_corrupt_or_foreign_is_warned_of_and_replaced(kept, damage, caplog):
    damage(kept)
    assert load(kept) is None
    assert "is corrupt; recomputing teacher outputs" in caplog.text
    write(kept.parent, kept.name)
    assert_whole(kept)
    assert [entry.name for entry in kept.parent.iterdir()] == ["kept"]


def test_a_record_of_the_right_size_does_not_save_another_file(kept):
    record = json.loads((kept / "outputs.json").read_text())
    assert record["examples"] == len(LENGTHS)
    (kept / "outputs.json").write_text(json.dumps(record | {"sha256": "0" * 64}))
    assert load(kept) is None


def test_whole_outputs_are_not_replaced(kept):
    before = (kept / "outputs.arrow").stat().st_ino
    write(kept.parent, kept.name)
    assert (kept / "outputs.arrow").stat().st_ino == before


# --- interrupted, in parallel, or without room


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def interrupted():
        yield columns_of(BATCHES[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_outputs(tmp_path, "kept", BATCHES, interrupted(), LENGTHS)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path):
    entry = fingerprint(["examples"])
    others = {entry, "bert.baseline", "run.20240101", f"{entry}.baseline2"}
    for name, hours in ((f"{entry}.old_1234", 25), (f"{entry}.new_1234", 23), *((other, 99) for other in others)):
        (tmp_path / name).mkdir()
        file = tmp_path / name / "outputs.arrow"
        file.write_text("half")
        for path in (file, tmp_path / name):
            os.utime(path, (time.time() - hours * 3600,) * 2)
    write(tmp_path, "kept")
    assert {path.name for path in tmp_path.iterdir()} == {*others, f"{entry}.new_1234", "kept"}


def write_repeatedly(folder, barrier):
    """Write at the same time as another process: where nothing lies yet, and where something corrupt does."""
    for repetition in range(REPETITIONS):
        corrupt = folder / f"corrupt{repetition}"
        corrupt.mkdir(exist_ok=True)
        (corrupt / "outputs.json").write_text("corrupt")
        barrier.wait(timeout=60)
        write(folder, f"new{repetition}")
        barrier.wait(timeout=60)
        with suppress(OSError):  # one of two that replace the same may find it gone
            write(folder, corrupt.name)


def test_two_processes_that_write_the_same_leave_one_whole_file(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    other = context.Process(target=write_repeatedly, args=(tmp_path, barrier))
    other.start()
    try:
        write_repeatedly(tmp_path, barrier)
        other.join(60)
    finally:
        other.kill()
    assert other.exitcode == 0
    entries = sorted(tmp_path.iterdir())
    assert [entry.name for entry in entries] == sorted(
        f"{kind}{n}" for kind in ("new", "corrupt") for n in range(REPETITIONS)
    )
    for entry in entries:
        assert_whole(entry)


def test_the_size_is_stated_before_anything_is_written(tmp_path, caplog):
    lengths, written = [4, 2, 3], []

    def outputs():
        yield {"teacher_hidden_0": [torch.zeros(4, 500_000).half()], "teacher_logits": [torch.zeros(3)]}
        written.append(caplog.text)
        yield {
            "teacher_hidden_0": [torch.zeros(n, 500_000).half() for n in (3, 2)],
            "teacher_logits": [torch.zeros(3)] * 2,
        }

    save_outputs(tmp_path, "kept", [[0], [2, 1]], outputs(), lengths)
    assert f"caching teacher_hidden_0, teacher_logits of 3 examples in {tmp_path}: 9.0 MB" in written[0]
    assert (tmp_path / "kept" / "outputs.arrow").stat().st_size == pytest.approx(9e6, rel=0.01)


def test_what_the_disk_has_no_room_for_is_refused_after_one_batch(tmp_path, monkeypatch):
    enough = 2 * 10 * 3 * 4  # of ten examples three logits of four bytes, as computed and in order
    computed = []

    def keep(free):
        monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
        rows = ({"teacher_logits": [torch.zeros(3)]} for _ in range(10))
        outputs = (computed.append(free) or row for row in rows)
        save_outputs(tmp_path, "kept", [[index] for index in range(10)], outputs, [1] * 10)

    with pytest.raises(CacheUnavailableError, match=r"writing them needs .* MB, but the disk has"):
        keep(enough - 1)
    assert computed == [enough - 1]
    assert list(tmp_path.iterdir()) == []
    keep(enough)
    assert len(load_outputs(tmp_path, "kept", 10)) == 10


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        write(tmp_path / "file" / "cache", "kept")
