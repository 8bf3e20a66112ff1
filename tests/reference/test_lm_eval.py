"""EleutherAI's lm-evaluation-harness loads an export and scores a task of the user's own with it, without a network.

Its log-likelihoods are those that our model gives: so a researcher's figures are about this very model.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import environment

from tinygpt import checkpoint, export
from tinygpt.optim import Optimizer

pytest.importorskip("lm_eval", reason="lm-eval is not installed: nobody has seen the harness load an export")

TASK = """
task: endings
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list:
  - metric: acc
"""
QUESTIONS = [
    {"question": f"{who} found a red kite", "choices": ["in the wood.", "by the river.", "of the"], "answer": i % 3}
    for i, who in enumerate(["The fox", "A small owl", "Old Mia", "The grey cat", "My brother", "Tom", "Zoë", "日本"])
]


@torch.no_grad()
def our_score(s, question, choice):
    """log P(" choice" | question) [nats]."""
    encode = s.run.tokenizer.encode
    ids, given = encode(f"{question} {choice}"), len(encode(question))
    chances = s.model(torch.tensor([ids])).log_softmax(-1)[0]
    return sum(chances[i - 1, ids[i]].item() for i in range(given, len(ids)))


@pytest.mark.parametrize("preset", ["modern", "gpt2"])
def test_the_harness_scores_as_we_do(tmp_path, monkeypatch, make_run, make_model, preset):
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "runs" / "x", preset, block_size=64)
    model = make_model(preset, std=0.1, **vars(run.config.model))
    checkpoint.save(run.folder, model, Optimizer([]), checkpoint.Progress(step=4), run.digests)
    export.export("x", "hf")
    Path("tasks").mkdir()
    Path("endings.json").write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    Path("tasks/endings.yaml").write_text(TASK.format(data=tmp_path / "endings.json"))
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    words = ["--model", "hf", "--model_args", "pretrained=exports/x-hf,dtype=float32", "--tasks", "endings",
             "--include_path", "tasks", "--device", "cpu", "--output_path", "out", "--log_samples"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", *words], cwd=tmp_path, env={**environment(tmp_path), **offline},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    s, _ = export.source("x")
    lines = next(Path("out").rglob("samples_endings_*.jsonl")).read_text().splitlines()
    assert len(lines) == len(QUESTIONS)
    right = 0
    for sample in map(json.loads, lines):
        document = sample["doc"]
        ours = [our_score(s, document["question"], choice) for choice in document["choices"]]
        theirs = [float(score) for score, _ in sample["filtered_resps"]]
        assert theirs == pytest.approx(ours, abs=1e-3)
        right += max(range(3), key=ours.__getitem__) == document["answer"]
    results = json.loads(next(Path("out").rglob("results_*.json")).read_text())["results"]["endings"]
    assert results["acc,none"] == pytest.approx(right / len(QUESTIONS))
