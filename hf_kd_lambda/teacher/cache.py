"""Cache of the teacher's outputs: computed once, reused in all epochs and in later runs."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset
from huggingface_hub.constants import HF_HOME
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers.utils import logging

from hf_kd_lambda.data.columns import LABELS, TEACHER_INPUTS_DIGEST, TEACHER_PREFIX, joined, token_counts
from hf_kd_lambda.teacher.cache_file import CacheUnavailableError, Rows, load_outputs, save_outputs
from hf_kd_lambda.teacher.row_digest import collated, row_digests
from hf_kd_lambda.utils.fingerprint import batch_digest, examples_digest, fingerprint

logger = logging.get_logger(__name__)

DEFAULT_FOLDER = Path(HF_HOME) / "hf_kd_lambda"
_PROBED = 16  # number of first, longest and spread examples each that are collated twice
OTHER_ROWS = "data_collator sorts, drops, merges or changes rows"


@dataclass(frozen=True)
class TeacherCache:
    """Adds the teacher's outputs to examples, as new columns.

    Every rank computes a share of the batches. Batches are length-grouped, the longest first: there is little padding,
    and an out-of-memory error occurs in the first batch or never.

    Args:
        folder: cache folder. Every node writes its own files if the nodes share no disk.
        identity: identifies the teacher, which of its outputs are cached, and their precision.
        collate: maps examples to a batch.
        predict: maps a batch to the outputs of its examples.
        batch_size: batch size for the longest examples; batches of shorter examples are larger.
        accelerator: the run's accelerator.
        progress: show a progress bar.
    """

    folder: Path
    identity: str
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]
    predict: Callable[[dict[str, Any]], Rows]
    batch_size: int
    accelerator: Accelerator
    progress: bool = True

    def add_to(self, examples: Any) -> Dataset:
        """The examples with the teacher's outputs, memory-mapped; computes and caches them first if necessary.

        All ranks must call this together.

        Raises:
            CacheUnavailableError: the examples change between reads, or the outputs cannot be written.
        """
        first_batch, refusal = "", None
        try:
            first_batch = self._check_repeatable(examples)
        except CacheUnavailableError as error:
            refusal = str(error)
        # A rank may miss by chance that examples change, and must not wait for the others in the next collective.
        if refusals := [found for found in gather_object([refusal]) if found]:
            raise CacheUnavailableError(refusals[0])
        inputs = examples_digest(examples, set(examples.column_names) - set(LABELS))
        code = (version("hf-kd-lambda"), torch.__version__, version("transformers"))
        name = fingerprint([self.identity, first_batch, inputs, *code])
        if len(set(gather_object([name]))) > 1:
            raise CacheUnavailableError("the ranks have other weights of the teacher, or other examples")
        outputs = self._load(name, len(examples))
        if outputs is None:
            reason = self._compute(name, examples)
            outputs = self._load(name, len(examples))
        if outputs is None:
            raise CacheUnavailableError(
                f"the outputs cannot be saved in teacher_cache_dir={str(self.folder)!r} ({reason})"
            )
        return joined(examples, outputs)

    def _check_repeatable(self, examples: Any) -> str:
        """Check that the same examples give the same batch twice; return the fingerprint of a probe batch."""
        if not isinstance(examples, Dataset):
            raise CacheUnavailableError(f"{type(examples).__name__} is not a datasets.Dataset")
        if examples.format["type"] == "custom":
            raise CacheUnavailableError("they are transformed on the fly, possibly at random")
        probes = self._probes(examples)
        batches = [self.collate([examples[row] for row in probes]) for _ in range(2)]
        digests = {batch_digest(_tensors_but_labels(batch)) for batch in batches}
        if len(digests) > 1:
            raise CacheUnavailableError("they are augmented at random: the same examples gave two different batches")
        alone = [digest for row in probes for digest in row_digests(self.collate([examples[row]]))]
        if row_digests(batches[0]) != alone:
            raise CacheUnavailableError(OTHER_ROWS)
        return digests.pop()

    def _probes(self, examples: Dataset) -> list[int]:
        """Indices of the examples to collate twice: the first, the longest, and evenly spread ones."""
        lengths = token_counts(examples, (f"{TEACHER_PREFIX}input_ids", "input_ids"))
        longest = sorted(range(len(lengths)), key=lengths.__getitem__)[-_PROBED:]
        spread = range(0, len(lengths), max(len(lengths) // _PROBED, 1))
        return sorted({*range(min(_PROBED, len(lengths))), *longest, *spread})

    def _load(self, name: str, examples: int) -> Dataset | None:
        """The cached outputs if all ranks find them, else None."""
        outputs = load_outputs(self.folder, name, examples)
        found = torch.tensor([outputs is not None], dtype=torch.uint8, device=self.accelerator.device)
        return outputs if self.accelerator.gather(found).all() else None

    def _compute(self, name: str, examples: Dataset) -> str:
        """Compute and cache the outputs; return the reason to report if loading them fails."""
        if problems := [found for found in gather_object([self._cannot_write()]) if found]:
            return problems[0]
        lengths = token_counts(examples, (f"{TEACHER_PREFIX}input_ids", "input_ids"))
        batches = plan_batches(lengths, self.batch_size * max(lengths))
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        share = batches[rank::ranks]
        rounds = -(-len(batches) // ranks)
        share += batches[:1] * (rounds - len(share))  # every rank takes part in the last gather
        # With its own generator, so that it does not advance the global one, which training uses.
        collate = partial(collated, self.collate)
        loader = DataLoader(examples, batch_sampler=share, collate_fn=collate, generator=torch.Generator())
        shows = self.progress and self.accelerator.is_local_main_process
        bar = tqdm(loader, desc="Teacher's outputs", disable=None if shows else True)  # None: shown on a terminal
        outputs = (rows for batch, digests in bar for rows in gather_object([self._rows(batch, digests)]))
        reason = "the nodes share no disk"
        if self.accelerator.is_local_main_process:
            try:
                save_outputs(self.folder, name, batches, _require_rows(outputs), lengths)
            except (OSError, CacheUnavailableError) as error:
                reason = str(error)
        for _ in outputs if ranks > 1 else ():  # take part in all gathers, even if writing failed
            pass
        self.accelerator.wait_for_everyone()
        return reason

    def _cannot_write(self) -> str | None:
        """Why nothing can be written to the folder, before the teacher runs over all examples in vain."""
        if self.accelerator.is_local_main_process:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(dir=self.folder):
                    pass
            except OSError as error:
                return str(error)
        return None

    def _rows(self, batch: dict[str, Any], digests: list[bytes]) -> Rows:
        """The output columns of a batch; none if its rows are not the examples."""
        if not digests:
            return {}  # no error here, because all ranks must take part in all gathers
        return self.predict(batch) | {TEACHER_INPUTS_DIGEST: [*digests]}


def _require_rows(outputs: Iterable[Rows]) -> Iterator[Rows]:
    """The rows of every batch.

    Raises:
        CacheUnavailableError: a batch has no rows.
    """
    for rows in outputs:
        if not rows:
            raise CacheUnavailableError(OTHER_ROWS)
        yield rows


def plan_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Indices of examples in batches of at most `batch_tokens` tokens with padding; a single example may be longer."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > batch_tokens:
            batches.append([])
        batches[-1].append(index)
    return batches


def _tensors_but_labels(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in batch.items() if isinstance(value, Tensor) and name not in LABELS}
