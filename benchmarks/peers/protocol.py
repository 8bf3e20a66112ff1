"""What a peer is asked, and what it answers. Your own script needs nothing of this file, only the protocol.

A peer is a separate process: `python SCRIPT JOB`. JOB is a JSON file with one object:

    train_tokens  a .npy file, one array of token ids        train_text, val_text  the texts, UTF-8
    val_tokens    the same of the validation text            val_bytes             UTF-8 length of val_text [bytes]
    shape         the fields of tinygpt's ModelConfig: vocab_size n_embd n_heads n_kv_heads n_layers block_size
                  d_head d_ff dropout positions norm norm_place feed_forward qk_norm tied bias rope_theta
    batch_size    sequences a step                           block_size            tokens a sequence
    steps         steps to train, or null; then              seconds               to train after the warm-up
    warmup_steps  first steps, which do not count            threads               0: as the peer likes
    device        "cpu" or "cuda"                            seed

A question that is not asked is null. The last line on standard output is the answer, one JSON object:

    tokens_per_s  batch_size * block_size / step_s           step_s   mean seconds of the steps after the warm-up
    seconds       of all these steps                         bpb      optional: bits per byte of the validation text
    peak_rss_bytes  optional; what counts is measured from outside

or {"error": "one sentence"}. Other lines on standard output are ignored. Exit code 0, or 1 with an error.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn


def read_job() -> dict[str, Any]:
    """The job named on the command line."""
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    return job


def answer(**figures: Any) -> None:
    """Print the answer."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB on Linux
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    print("\n" + json.dumps({**figures, "peak_rss_bytes": peak}), flush=True)


def fail(sentence: str) -> NoReturn:
    """Answer with an error and leave."""
    print("\n" + json.dumps({"error": sentence}), flush=True)
    raise SystemExit(1)


def not_installed(packages: str) -> NoReturn:
    """Answer that packages are missing, with the command that mends it."""
    fail(f"not installed: pip install {packages}")


def require_modern(shape: dict[str, Any], peer: str) -> None:
    """Leave with an error unless the shape is Qwen3's, the one that Hugging Face and litgpt have too."""
    wanted = {
        "positions": "rotary", "norm": "rmsnorm", "norm_place": "before", "feed_forward": "swiglu", "qk_norm": True,
        "bias": False,
    }  # fmt: skip
    other = [f"{name}={shape[name]}" for name in wanted if shape[name] != wanted[name]]
    if other:
        fail(f"{peer} is built for the shape of --preset modern only, and this one has {', '.join(other)}.")


class StepClock:
    """Times the steps after the warm-up, waiting for the device at both ends of them and nowhere else."""

    def __init__(self, job: dict[str, Any], synchronize: Callable[[], object] = lambda: None) -> None:
        self.job, self.synchronize = job, synchronize
        self.steps, self.began, self.seconds = 0, 0.0, 0.0

    def tick(self) -> bool:
        """Count a finished step; returns whether it was the last."""
        self.steps += 1
        if self.steps <= self.job["warmup_steps"]:
            if self.steps == self.job["warmup_steps"]:
                self.synchronize()
                self.began = time.perf_counter()
            return False
        if self.job["steps"] is not None:
            over = self.steps >= self.job["steps"]
        else:
            over = time.perf_counter() - self.began >= self.job["seconds"]
        if over:
            self.synchronize()
            self.seconds = time.perf_counter() - self.began
        return over

    def figures(self) -> dict[str, float]:
        """tokens_per_s, step_s and seconds of an answer."""
        step_s = self.seconds / (self.steps - self.job["warmup_steps"])
        tokens = self.job["batch_size"] * self.job["block_size"]
        return {"tokens_per_s": tokens / step_s, "step_s": step_s, "seconds": self.seconds}
