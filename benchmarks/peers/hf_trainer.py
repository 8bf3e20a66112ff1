"""Hugging Face: Trainer and Qwen3ForCausalLM in the shape of --preset modern, the way its documentation trains.

Everything that Trainer decides by itself stays; set are the shape, the batch, and that nothing is saved or reported.
On a GPU it gets bf16, as tinygpt takes it. The same windows of the token file, in the order of Trainer's sampler.
"""

from __future__ import annotations

import tempfile
from typing import Any

from benchmarks.peers.protocol import StepClock, answer, not_installed, read_job, require_modern
from benchmarks.peers.qwen3 import make_qwen3

try:
    import accelerate  # noqa: F401  (Trainer needs it, and says so later and longer)
    import numpy as np
    import torch
    import transformers
except ModuleNotFoundError:
    not_installed("transformers accelerate")


class Blocks(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Window number i of a token array; the model shifts the labels by itself."""

    def __init__(self, ids: np.ndarray, block_size: int) -> None:
        self.ids, self.block_size = ids, block_size

    def __len__(self) -> int:
        return len(self.ids) // self.block_size

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        window = torch.from_numpy(self.ids[i * self.block_size : (i + 1) * self.block_size].astype(np.int64))
        return {"input_ids": window, "labels": window}


class Timing(transformers.TrainerCallback):
    """Ticks after every step and stops the training when the clock says so."""

    def __init__(self, clock: StepClock) -> None:
        self.clock = clock

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Called by Trainer."""
        control.should_training_stop = self.clock.tick()
        return control


def main() -> None:
    """Train as the job says."""
    job = read_job()
    require_modern(job["shape"], "hf")
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    transformers.set_seed(job["seed"])
    cuda = job["device"] == "cuda"
    clock = StepClock(job, torch.cuda.synchronize if cuda else lambda: None)
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder, per_device_train_batch_size=job["batch_size"], max_steps=job["steps"] or 10**6,
            save_strategy="no", report_to="none", disable_tqdm=True, logging_steps=10, use_cpu=not cuda, bf16=cuda,
            seed=job["seed"], dataloader_drop_last=True, dataloader_pin_memory=cuda,
        )  # fmt: skip
        model, data = make_qwen3(job["shape"]), Blocks(np.load(job["train_tokens"]), job["block_size"])
        trainer = transformers.Trainer(model=model, args=arguments, train_dataset=data, callbacks=[Timing(clock)])
        trainer.train()
    answer(**clock.figures())


if __name__ == "__main__":
    main()
