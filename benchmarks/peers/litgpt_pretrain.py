"""litgpt: its `pretrain` in the shape of --preset modern (Qwen3, as litgpt spells it), torch.compile included.

Its own loop, optimizer, schedule and logging. A data module hands it windows of the token file; asking for the next
batch is how one knows from outside that a step is done. When enough are, the data module ends the training, so the
final checkpoint is not written. The vocabulary is not padded, on a GPU the format is bf16-mixed.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers.protocol import StepClock, answer, not_installed, read_job, require_modern

try:
    import numpy as np
    import torch
    from litgpt.args import EvalArgs, TrainArgs
    from litgpt.config import Config
    from litgpt.data import DataModule
    from litgpt.pretrain import setup
except ModuleNotFoundError:
    not_installed("litgpt, in an environment of its own, and --python litgpt=PATH/bin/python")


class Enough(Exception):
    """Raised by the data to end the training."""


class Batches(torch.utils.data.IterableDataset[torch.Tensor]):
    """Random windows (B, T + 1) of a token array without end; with a clock, every request but the first is a tick."""

    def __init__(self, ids: np.ndarray, job: dict[str, Any], clock: StepClock | None) -> None:
        self.ids, self.job, self.clock = ids, job, clock

    def __iter__(self) -> Iterator[torch.Tensor]:
        random, length = np.random.default_rng(self.job["seed"]), self.job["block_size"] + 1
        while True:
            starts = random.integers(0, len(self.ids) - length + 1, self.job["batch_size"])
            yield torch.from_numpy(self.ids[starts[:, None] + np.arange(length)].astype(np.int64))
            if self.clock and self.clock.tick():
                raise Enough


class Tokens(DataModule):
    """The token file for litgpt."""

    def __init__(self, job: dict[str, Any], clock: StepClock) -> None:
        super().__init__()
        self.job, self.clock = job, clock

    def connect(self, tokenizer: Any = None, batch_size: int = 1, max_seq_length: int | None = None, **_: Any) -> None:
        """Nothing to connect: the batches come ready."""

    def train_dataloader(self) -> Any:
        """Timed batches."""
        return self.batches(self.clock)

    def val_dataloader(self) -> Any:
        """Batches for litgpt's check of the settings before it starts."""
        return self.batches(None)

    def batches(self, clock: StepClock | None) -> Any:
        """A loader in this process: it asks for a batch when the step before is done."""
        ids = np.load(self.job["train_tokens"])
        return torch.utils.data.DataLoader(Batches(ids, self.job, clock), batch_size=None, num_workers=0)


def make_config(shape: dict[str, Any]) -> Any:
    """Qwen3 in litgpt's names."""
    return Config(
        name="qwen3", block_size=shape["block_size"], vocab_size=shape["vocab_size"],
        padded_vocab_size=shape["vocab_size"], n_layer=shape["n_layers"], n_embd=shape["n_embd"],
        n_head=shape["n_heads"], n_query_groups=shape["n_kv_heads"], head_size=shape["d_head"],
        intermediate_size=shape["d_ff"], rotary_percentage=1.0, rope_base=int(shape["rope_theta"]),
        parallel_residual=False, bias=False, norm_class_name="RMSNorm", norm_eps=1e-6, mlp_class_name="LLaMAMLP",
        norm_qk=True,
    )  # fmt: skip


def main() -> None:
    """Train as the job says."""
    job = read_job()
    require_modern(job["shape"], "litgpt")
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    cuda = job["device"] == "cuda"
    clock = StepClock(job, torch.cuda.synchronize if cuda else lambda: None)
    B, T = job["batch_size"], job["block_size"]
    steps = job["steps"] or 10**6
    train = TrainArgs(
        global_batch_size=B, micro_batch_size=B, max_tokens=(steps + 1) * B * T, log_interval=10, save_interval=None,
        lr_warmup_steps=max(1, steps // 10), max_norm=1.0, tie_embeddings=job["shape"]["tied"],
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Enough):
        setup(
            "qwen3", model_config=make_config(job["shape"]), out_dir=Path(folder) / "out", data=Tokens(job, clock),
            precision="bf16-mixed" if cuda else "32-true", train=train, devices=1, logger_name="csv",
            eval=EvalArgs(interval=10**9, max_iters=1, initial_validation=False, final_validation=False),
            seed=job["seed"],
        )  # fmt: skip
    answer(**clock.figures())


if __name__ == "__main__":
    main()
