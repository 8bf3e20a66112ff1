"""What is decided of a long text from a part of it, and that it is said."""

from tinygpt import data, prepare
from tinygpt.plan import Budget, Speed


def decided(folder, texts, monkeypatch):
    path = folder / "a.txt"
    path.write_text("\n\n\n".join(texts))
    monkeypatch.setattr(prepare, "measure", lambda *_, **__: Speed(step_s=0.01, threads=1, tokens_per_s=10_000.0))
    shape = {"n_embd": 32, "n_heads": 4, "n_layers": 1, "block_size": 32, "vocab_size": 300}
    given = {**shape, "device": "cpu", "precision": "fp32", "compiled": "no"}
    heard = []
    result = prepare.decide([path], given=given, budget=Budget(steps=3), say=heard.append)
    return result, "\n".join(heard)


def test_a_long_text_is_sampled_and_that_is_said(tmp_path, texts, monkeypatch):
    short, heard = decided(tmp_path, texts, monkeypatch)
    assert "pieces learnt from the text," in heard and "compare with," in heard
    size = short.corpus.report["train"]["bytes"]
    monkeypatch.setattr(prepare, "TOKENIZER_BYTES", size)
    again, heard = decided(tmp_path, texts, monkeypatch)
    assert (
        again.tokenizer.sha256 == short.tokenizer.sha256 and "learnt from the text," in heard
    )  # at the limit: all of it

    monkeypatch.setattr(prepare, "TOKENIZER_BYTES", size // 3)
    monkeypatch.setattr(prepare, "SAMPLE_TOKENS", 1000)
    monkeypatch.setattr(data, "IN_MEMORY_BYTES", 0)
    long, heard = decided(tmp_path, texts, monkeypatch)
    assert "pieces learnt from one document in 4 of the text," in heard
    assert "compare with (on 1,000 of the tokens)," in heard
    expected = prepare.train_tokenizer(short.corpus.train[::4], 300)
    assert long.tokenizer.sha256 == expected.sha256 != short.tokenizer.sha256
    assert (long.train_ids == long.tokenizer.encode_documents(short.corpus.train)).all()
