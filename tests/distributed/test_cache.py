"""Two gloo processes that share the work of asking the teacher, against one that does all of it."""

import json
from pathlib import Path

import pytest
import torch
from distributed.cache_worker import cache
from helpers.processes import run_two_ranks


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return cache(folder, folder / "cache")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each rank had after computing, after reading, where nothing can be written, and of unlike teachers."""
    folder = tmp_path_factory.mktemp("ranks")
    result = run_two_ranks(Path(__file__).with_name("cache_worker.py"), str(folder))
    assert result.returncode == 0, result.stderr[-4000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def test_both_ranks_read_what_one_process_would_have_computed(alone, ranks):
    for computed, read, *_ in ranks:
        for result in (computed, read):
            torch.testing.assert_close(
                torch.tensor(result["logits"]), torch.tensor(alone["logits"]), rtol=0, atol=1e-6
            )
            for found, expected in zip(result["hidden"], alone["hidden"], strict=True):
                torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=2e-3, atol=1e-4)
    assert torch.tensor(alone["logits"]).std(dim=0).min() > 0.01, "examples must differ, or any order would do"


def test_each_rank_computes_half_of_an_odd_number_of_batches(alone, ranks):
    assert alone["calls"] % 2 == 1
    assert [computed["calls"] for computed, *_ in ranks] == [(alone["calls"] + 1) // 2] * 2
    assert [read["calls"] for _, read, *_ in ranks] == [0, 0]


def test_all_read_one_file_of_the_same_fingerprint(alone, ranks):
    (name,) = {Path(file).parent.name for file in alone["files"]}
    files = {file for results in ranks for result in results[:2] for file in result["files"]}
    (file,) = map(Path, files)
    assert (file.parent.name, file.name) == (name, "outputs.arrow")
    assert [entry.name for entry in file.parents[1].iterdir()] == [name]


def test_no_rank_waits_for_ever_where_nothing_can_be_written(ranks):
    assert [(refused["complete"], refused["calls"]) for _, _, refused, _ in ranks] == [(False, 0)] * 2


def test_ranks_of_unlike_teachers_cache_nothing(ranks):
    assert [unlike["complete"] for *_, unlike in ranks] == [False, False]
