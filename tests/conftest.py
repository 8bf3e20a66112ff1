"""What the tests share: one thread, texts made here, and one small run made by the package itself."""

import io
import signal
import sys
from pathlib import Path

import pytest

SHAPE = {"n_embd": 32, "n_heads": 4, "n_layers": 2, "block_size": 32}
SCHEDULE = {
    "batch_size": 4, "lr": 3e-3, "warmup_steps": 2, "max_steps": 12, "eval_every": 4, "save_every": 4,
    "sample_every": 6, "log_every": 1, "threads": 1, "device": "cpu", "precision": "fp32",
    "start": "random",
}  # fmt: skip


# In the background of a shell, or under nohup, these are ignored, and so they would be in every process started here.
for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL), ("SIGTERM", signal.SIG_DFL)):
    if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_IGN:
        signal.signal(getattr(signal, name), handler)


def pytest_terminal_summary(terminalreporter):
    """What was left out for want of a browser is said where it is read."""
    left_out = [r for r in terminalreporter.stats.get("skipped", []) if "NO BROWSER" in str(r.longrepr)]
    if left_out:
        terminalreporter.section("NO BROWSER", sep="!", red=True)
        terminalreporter.line(f"{len(left_out)} tests of the studio's pages were SKIPPED: apt install chromium")


@pytest.fixture(autouse=True)
def one_thread():
    """One thread, so that sums are added in one order and the machine stays usable; torch only if it is there."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """120 different small documents, the same on every machine: no random module, whose streams may change."""
    who = ["The fox", "A small owl", "Old Mia", "The grey cat", "My brother", "Tom"]
    did = ["found", "lost", "painted", "carried", "hid"]
    what = ["a red kite", "the key", "three nuts", "an apple", "his drum", "a café cup", "the blue box"]
    where = ["in the wood", "by the river", "at home", "under the bridge"]
    line = lambda i: f"{who[i % 6]} {did[i % 5]} {what[i * 3 % 7]} {where[i // 2 % 4]}."  # noqa: E731
    return [f"{line(i)} {line(i * 7 + 1)}\n{line(i * 5 + 2)}" for i in range(120)]


@pytest.fixture(scope="session")
def tokenizer(texts):
    """Trained on `texts`: 320 tokens, so some are longer than a byte."""
    from tinygpt.tokenizer import train_tokenizer

    return train_tokenizer(texts, 320)


@pytest.fixture(scope="session")
def byte_tokenizer():
    """Without merges: every byte is a token, so that every character beyond ASCII is several."""
    from tinygpt.tokenizer import Tokenizer

    return Tokenizer([])


@pytest.fixture
def silent():
    """A display that nobody sees; what it said is in `silent.heard.getvalue()`."""
    from tinygpt.display import Display

    heard = io.StringIO()
    display = Display(heard)
    display.heard = heard
    return display


@pytest.fixture(scope="session")
def machine():
    """The CPU in fp32."""
    from tinygpt.config import TrainConfig
    from tinygpt.distributed import choose_machine

    return choose_machine(TrainConfig(device="cpu", precision="fp32"))


@pytest.fixture(scope="session")
def make_model():
    """make_model("modern", n_layers=1): a tiny model of a preset with random weights, norms and biases included."""
    import torch

    from tinygpt.config import ModelConfig
    from tinygpt.model import TinyGPT

    def make(preset="modern", seed=0, std=0.2, **fields):
        shape = {"vocab_size": 259, **SHAPE, "block_size": 16, **fields}
        model = TinyGPT(ModelConfig.from_dict(shape, preset))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, p in model.named_parameters():
                noise = torch.randn(p.shape, generator=generator) * std
                p.copy_(1 + noise if "norm" in name and name.endswith("weight") else noise)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def make_run(texts, tokenizer):
    """make_run(folder, "modern", dropout=0.1): a run folder of the tiny texts, ready to train."""
    from tinygpt.config import make_config
    from tinygpt.runs import create

    def make(folder: Path, preset="modern", **overrides):
        config = make_config(preset, {**SHAPE, **SCHEDULE, "vocab_size": tokenizer.vocab_size, **overrides})
        train_ids, val_ids = tokenizer.encode_documents(texts[:110]), tokenizer.encode_documents(texts[110:])
        corpus, facts = {"train": {}, "val": {}}, {"baselines": {}, "floor": None, "parameters": 0}
        return create(folder, config, tokenizer, corpus, facts, train_ids, val_ids)

    return make


@pytest.fixture(scope="session")
def make_trained(make_run):
    """make_trained(folder, block_size=64): the same after one step of training, so that it has a checkpoint."""
    from tinygpt.display import make_display
    from tinygpt.distributed import choose_machine
    from tinygpt.train import set_up, train

    def make(folder: Path, **overrides):
        run = make_run(folder, max_steps=1, eval_every=1, save_every=1, **overrides)
        train(set_up(run, choose_machine(run.config.train), make_display(io.StringIO(), quiet=True)))
        return run

    return make


@pytest.fixture
def run(tmp_path, monkeypatch, make_run):
    """A run called mine, at step 0, in the folder where the test works."""
    monkeypatch.chdir(tmp_path)
    return make_run(tmp_path / "runs" / "mine")


@pytest.fixture(scope="session")
def trained(texts, tmp_path_factory):
    """The folder of a run made by prepare and train, as the command does it; read it, do not change it."""
    from tinygpt import prepare as preparing
    from tinygpt.display import Display
    from tinygpt.plan import Budget, Speed
    from tinygpt.train import set_up, train

    folder = tmp_path_factory.mktemp("trained")
    (folder / "stories.jsonl").write_text("".join(f'{{"text": {text!r}}}\n'.replace("'", '"') for text in texts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "measure", lambda *_, **__: Speed(step_s=0.01, threads=1, tokens_per_s=10_000.0))
        given = {**SHAPE, "vocab_size": 320, "batch_size": 8, "device": "cpu", "precision": "fp32", "eval_every": 20}
        run, machine = preparing.prepare(
            folder / "run", [folder / "stories.jsonl"], given=given, budget=Budget(steps=60), say=lambda _: None
        )
    assert train(set_up(run, machine, Display(io.StringIO()))) == 0
    return run.folder
