"""Token files refuse every damage; batches are a pure function of (seed, step) and visit every window once."""

import hashlib
import io
import itertools
import json
import mmap
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygpt import data
from tinygpt.data import (
    HEADER_BYTES,
    MAGIC,
    Windows,
    mix,
    permute,
    read_tokens,
    scoring_windows,
    total_bytes,
    write_tokens,
)
from tinygpt.errors import UserError
from tinygpt.tokenizer import Tokenizer, train_tokenizer

# --- token files -----------------------------------------------------------------------------------------------------


class WideTokenizer:
    """Stands for a vocabulary beyond 65,536, which takes minutes to train."""

    vocab_size, sha256 = 70_000, "ab" * 32

    @staticmethod
    def encode_in_parts(documents):
        return (np.array([0, 69_999, 1], dtype=np.int32) for _ in documents)


def test_small_vocabularies_are_stored_in_uint16(tmp_path, tokenizer):
    ids = np.array([0, 5, 319, 1], dtype=np.int32)
    write_tokens(tmp_path / "t", ids, tokenizer)
    back = read_tokens(tmp_path / "t", tokenizer)
    assert back.dtype == np.uint16 and back.tolist() == ids.tolist()
    assert (tmp_path / "t").stat().st_size == HEADER_BYTES + 4 * 2


def test_large_vocabularies_are_stored_in_uint32(tmp_path):
    """uint16 would wrap 69,999 round to 4,463 without a word."""
    write_tokens(tmp_path / "t", np.array([0, 69_999], dtype=np.int32), WideTokenizer)
    back = read_tokens(tmp_path / "t", WideTokenizer)
    assert back.dtype == np.uint32 and back.tolist() == [0, 69_999]


def test_65536_tokens_still_fit_into_uint16(tmp_path):
    class Exact:
        vocab_size, sha256 = 65_536, "ab" * 32

    write_tokens(tmp_path / "t", np.array([0, 65_535], dtype=np.int32), Exact)
    assert read_tokens(tmp_path / "t", Exact).tolist() == [0, 65_535]


def test_an_empty_file_comes_back_empty(tmp_path, tokenizer):
    write_tokens(tmp_path / "t", np.array([], dtype=np.int32), tokenizer)
    assert len(read_tokens(tmp_path / "t", tokenizer)) == 0


def test_every_flipped_bit_is_noticed(tmp_path, tokenizer, monkeypatch):
    """In the magic, in each field of the header, in the padding and in the tokens."""
    path = tmp_path / "t"
    write_tokens(path, np.arange(9, dtype=np.int32), tokenizer)
    good = path.read_bytes()
    for place, bit in itertools.product(range(len(good)), range(8)):
        bad = good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :]
        monkeypatch.setattr(data, "open_regular", lambda _, bad=bad: io.BytesIO(bad))
        with pytest.raises(UserError) as error:
            read_tokens(path, tokenizer)
        assert error.value.exit_code in (65, 66), (place, bit)
    monkeypatch.undo()
    assert read_tokens(path, tokenizer).tolist() == list(range(9))


def test_every_truncation_and_any_extra_byte_is_noticed(tmp_path, tokenizer, monkeypatch):
    path = tmp_path / "t"
    write_tokens(path, np.arange(9, dtype=np.int32), tokenizer)
    good = path.read_bytes()
    for bad in [*(good[:n] for n in range(len(good))), good + b"\0", good + b"\0\0"]:
        monkeypatch.setattr(data, "open_regular", lambda _, bad=bad: io.BytesIO(bad))
        with pytest.raises(UserError, match="not a usable token file") as error:
            read_tokens(path, tokenizer)
        assert error.value.exit_code == 65


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + b"\0" * 600, MAGIC + b"[]".ljust(504)])
def test_other_files_are_refused(tmp_path, tokenizer, content):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(UserError, match="not a usable token file") as error:
        read_tokens(tmp_path / "t", tokenizer)
    assert error.value.exit_code == 65


def test_a_missing_file_is_refused_by_name(tmp_path, tokenizer):
    with pytest.raises(UserError, match="none: cannot be read") as error:
        read_tokens(tmp_path / "none", tokenizer)
    assert error.value.exit_code == 65


def test_another_tokenizer_is_exit_66_with_both_digests(tmp_path, tokenizer):
    """Same size, other merges: the ids would be legal and mean other text."""
    other = train_tokenizer(["zebra quilt jinx " * 30 + str(i) for i in range(9)], 320)
    write_tokens(tmp_path / "t", np.arange(9, dtype=np.int32), tokenizer)
    with pytest.raises(UserError) as error:
        read_tokens(tmp_path / "t", other)
    assert error.value.exit_code == 66
    assert tokenizer.sha256[:12] in str(error.value) and other.sha256[:12] in str(error.value)


def test_an_id_beyond_the_vocabulary_is_refused(tmp_path, tokenizer):
    """It would end in an index error of the embedding, or on a GPU in a dead context."""
    write_tokens(tmp_path / "t", np.array([0, tokenizer.vocab_size], dtype=np.int32), tokenizer)
    with pytest.raises(UserError, match=r"token 320.*ends at 319") as error:
        read_tokens(tmp_path / "t", tokenizer)
    assert error.value.exit_code == 65


def test_a_header_that_contradicts_its_tokenizer_is_refused(tmp_path, tokenizer):
    path = tmp_path / "t"
    write_tokens(path, np.arange(9, dtype=np.int32), tokenizer)
    content = path.read_bytes()
    header = json.loads(content[len(MAGIC) : HEADER_BYTES])
    header["vocab_size"] = 999
    path.write_bytes((MAGIC + json.dumps(header).encode()).ljust(HEADER_BYTES) + content[HEADER_BYTES:])
    with pytest.raises(UserError, match="999"):
        read_tokens(path, tokenizer)


# --- long texts: the array is a map of the file ----------------------------------------------------------------------


@pytest.fixture
def mapped(monkeypatch):
    """Every array counts as long, and a part is 7 tokens."""
    monkeypatch.setattr(data, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(data, "PART_TOKENS", 7)


def test_a_mapped_array_is_the_array(tmp_path, tokenizer, texts, mapped):
    ids = tokenizer.encode_documents(texts)
    write_tokens(tmp_path / "t", ids, tokenizer)
    back = read_tokens(tmp_path / "t", tokenizer)
    assert isinstance(back, np.memmap) and back.dtype == np.uint16 and np.array_equal(back, ids)
    assert total_bytes(back, tokenizer.n_bytes()) == sum(len(text.encode()) for text in texts)
    assert data.digest(back, back[:9]) == hashlib.sha256(back.tobytes() + back[:9].tobytes()).hexdigest()
    one, other = (Windows(x, 16, seed=3).batch(5, 4) for x in (back, ids))
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_the_file_does_not_depend_on_the_parts(tmp_path, tokenizer, texts, monkeypatch):
    ids = tokenizer.encode_documents(texts)
    write_tokens(tmp_path / "whole", ids, tokenizer)
    monkeypatch.setattr(data, "PART_TOKENS", 7)
    write_tokens(tmp_path / "parts", ids, tokenizer)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "parts").read_bytes()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="where Linux tells the memory in use")
def test_what_was_read_through_the_map_is_let_go(tmp_path):
    """The bug: reading the whole array once made the whole file count as memory of this process."""
    rss_mb = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE / 1e6  # noqa: E731
    with (tmp_path / "zeros").open("wb") as file:
        file.truncate(64_000_000)
    ids = np.memmap(tmp_path / "zeros", np.uint16, "r")
    windows, before, peak = Windows(ids, 32, seed=0), rss_mb(), 0.0
    for _ in data.parts(ids):
        peak = max(peak, rss_mb() - before)
    for step in range(200):
        windows.batch(step, 8)
        peak = max(peak, rss_mb() - before)
    assert peak < 20


def test_damage_to_a_mapped_file_is_noticed(tmp_path, tokenizer, mapped):
    path = tmp_path / "t"
    write_tokens(path, np.arange(300, dtype=np.int32), tokenizer)
    good = path.read_bytes()
    for place in range(0, len(good), 31):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(UserError):
            read_tokens(path, tokenizer)


@pytest.mark.parametrize("limit", [0, 1 << 24])
def test_encode_is_encode_documents(tokenizer, texts, monkeypatch, limit):
    monkeypatch.setattr(data, "IN_MEMORY_BYTES", limit)
    for documents in (texts, texts[:1]):
        ids = data.encode(documents, tokenizer)
        assert isinstance(ids, np.memmap) == (limit == 0)
        assert ids.dtype == np.uint16 and np.array_equal(ids, tokenizer.encode_documents(documents))
    if limit:
        assert data.encode([], tokenizer).tolist() == []
    assert data.encode(["a"], WideTokenizer).dtype == np.uint32


def test_a_sample_is_everything_up_to_its_limit(monkeypatch):
    monkeypatch.setattr(data, "PIECE_TOKENS", 10)
    ids = np.arange(1000)
    assert data.sample(ids, 1000) is ids
    some = data.sample(ids, 100)
    assert len(set(some.tolist())) == len(some) == 100
    pieces = some.reshape(10, 10)
    assert (np.diff(pieces, axis=1) == 1).all() and pieces[0, 0] == 0 and pieces[-1, -1] == 999
    assert np.ptp(np.diff(pieces[:, 0])) <= 1  # evenly spaced


def test_counting_in_parts_is_counting(monkeypatch):
    ids = np.random.default_rng(0).integers(0, 9, 200).astype(np.uint16)
    monkeypatch.setattr(data, "PART_TOKENS", 7)
    for n in (0, 1, 2, 7, 8, 9, 14, 15, 200):
        some = ids[:n]
        assert np.array_equal(data.count_tokens(some, 9), np.bincount(some, minlength=9)), n
        pairs, counts = data.count_pairs(some, 9)
        expected = np.unique(some[:-1].astype(np.uint64) * 9 + some[1:], return_counts=True)
        assert np.array_equal(pairs, expected[0]) and np.array_equal(counts, expected[1]), n
        assert counts.dtype == np.int64 and pairs.dtype == np.uint64


# --- the order of an epoch -------------------------------------------------------------------------------------------


def order(n, seed, epoch):
    return permute(np.arange(n, dtype=np.uint64), n, seed, np.full(n, epoch, dtype=np.uint64)).tolist()


def test_mix_is_splitmix64():
    """The published first outputs for seed 0: mix of k times the golden gamma."""
    gamma = 0x9E3779B97F4A7C15
    states = np.array([k * gamma % 2**64 for k in (1, 2, 3)], dtype=np.uint64)
    assert [hex(x) for x in mix(states).tolist()] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f"]


def test_permute_is_a_bijection():
    for n in range(1, 301):
        assert sorted(order(n, seed=n % 7, epoch=n % 5)) == list(range(n)), n
    for n in (4096, 4097, 65_535, 100_003):
        assert sorted(order(n, seed=1, epoch=2)) == list(range(n)), n


def test_permute_differs_between_epochs_and_seeds():
    orders = [order(100, seed, epoch) for seed in range(4) for epoch in range(4)]
    assert len({tuple(o) for o in orders}) == 16
    for o in orders:  # a shuffle, not a rotation or a near-identity
        assert sum(a == b for a, b in enumerate(o)) < 10
        assert len({(b - a) % 100 for a, b in itertools.pairwise(o)}) > 40


VECTORS = [
    [5, 4, 6, 1, 3, 2, 0, 9, 8, 7],
    [7, 8, 0, 5, 4, 3, 6, 2, 9, 1],
    [6, 1, 4, 5, 10, 11, 9, 3, 12, 8, 7, 0, 2],
]


def test_permute_stays_what_it_was():
    """Stored vectors: another order would break every resume and every golden trace without a word."""
    assert order(10, seed=0, epoch=0) == VECTORS[0]
    assert order(10, seed=0, epoch=1) == VECTORS[1]
    assert order(13, seed=2**31 - 1, epoch=5) == VECTORS[2]


def test_permute_mixes_epochs_in_one_call():
    """A batch at the end of an epoch holds samples of two epochs."""
    index = np.array([8, 9, 0, 1], dtype=np.uint64)
    epochs = np.array([0, 0, 1, 1], dtype=np.uint64)
    expected = order(10, 0, 0)[8:] + order(10, 0, 1)[:2]
    assert permute(index, 10, 0, epochs).tolist() == expected


# --- batches ---------------------------------------------------------------------------------------------------------


def numbered(n_tokens, block_size=8, seed=0):
    """Windows over 0, 1, 2, ...: a token's value is its place."""
    return Windows(np.arange(n_tokens, dtype=np.uint16), block_size, seed)


def test_targets_are_the_inputs_shifted_by_one():
    inputs, targets = numbered(200).batch(3, 4)
    assert inputs.shape == targets.shape == (4, 8) and inputs.dtype == torch.long
    assert torch.equal(targets, inputs + 1)
    assert torch.equal(inputs - inputs[:, :1], torch.arange(8).expand(4, 8))


@settings(max_examples=60, deadline=None)
@given(st.integers(9, 700), st.integers(0, 2**31 - 1), st.integers(0, 50))
def test_every_window_of_an_epoch_exactly_once(n_tokens, seed, epoch):
    """Windows do not overlap, lie inside the text and leave less than two windows of it out."""
    w = numbered(n_tokens, seed=seed)
    samples = np.arange(epoch * w.count, (epoch + 1) * w.count, dtype=np.uint64)
    starts = np.sort(w.starts(samples).astype(np.int64))
    assert (np.diff(starts) == 8).all() and starts[0] >= 0 and starts[-1] + 8 + 1 <= n_tokens
    assert n_tokens - 1 - 8 * w.count < 16


def test_an_epoch_of_batches_reads_every_window_once_whatever_the_batch_size():
    for batch_size in (1, 2, 3, 6, 12):
        w = numbered(8 * 13 + 1)
        assert w.count == 12
        firsts = torch.cat([w.batch(step, batch_size)[0][:, 0] for step in range(12 // batch_size)])
        assert (firsts.sort().values.diff() == 8).all() and len(firsts) == 12


def test_the_grid_shifts_between_epochs():
    """With one fixed grid a token would stand at the same place of the context for ever."""
    w = numbered(8 * 13 + 1)
    places = {int(w.starts(np.array([12 * epoch], dtype=np.uint64))[0]) % 8 for epoch in range(60)}
    assert places == set(range(8))


def test_batches_are_pure_in_seed_and_step():
    def tokens(seed, step):
        return numbered(5000, seed=seed).batch(step, 4)[0].tolist()

    w = numbered(5000)
    later = w.batch(7, 4)[0].tolist()
    assert [w.batch(step, 4) for step in (0, 99)] and w.batch(7, 4)[0].tolist() == later == tokens(0, 7)
    assert tokens(1, 7) != later != tokens(0, 8)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_the_global_batch(world):
    """Rank r has rows r, r + world, ...: together, in order, exactly the single rank's batch."""
    w = numbered(5000, seed=3)
    for step in (0, 5, 77):
        whole = w.batch(step, 8)
        shares = [w.batch(step, 8, rank, world) for rank in range(world)]
        for part in (0, 1):
            assert torch.equal(torch.stack([share[part] for share in shares], dim=1).flatten(0, 1), whole[part])


def test_the_smallest_text_and_one_token_less():
    inputs, targets = numbered(9).batch(0, 3)
    assert inputs.tolist() == [list(range(8))] * 3 and targets[0].tolist() == list(range(1, 9))
    with pytest.raises(UserError) as error:
        numbered(20, block_size=32)
    assert error.value.exit_code == 65
    assert all(word in str(error.value) for word in ("20 tokens", "block_size=32", "33", "use block_size=19"))
    assert numbered(20, block_size=19).count == 1  # the advice works


@pytest.mark.parametrize("n", [2, 3, 8, 9, 10, 16, 17, 18, 100])
def test_scoring_scores_every_token_but_the_first_once(n):
    scored = [i for start, end in scoring_windows(np.arange(n), 8) for i in range(start + 1, end + 1)]
    assert scored == list(range(1, n))
    assert all(0 < end - start <= 8 for start, end in scoring_windows(np.arange(n), 8))


def test_total_bytes_counts_utf8_and_no_special_tokens():
    tokenizer = Tokenizer([])
    ids = np.array([0, *tokenizer.encode("é!"), 1], dtype=np.uint16)
    assert total_bytes(ids, tokenizer.n_bytes()) == 3


def test_a_pipe_or_a_link_is_no_token_file(tmp_path, tokenizer):
    """Opening a pipe would wait for a writer for ever."""
    os.mkfifo(tmp_path / "pipe")
    write_tokens(tmp_path / "t", np.arange(9, dtype=np.int32), tokenizer)
    (tmp_path / "link").symlink_to(tmp_path / "t")
    for name in ("pipe", "link"):
        with pytest.raises(UserError, match=r"not a regular file|a link") as error:
            read_tokens(tmp_path / name, tokenizer)
        assert error.value.exit_code == 65


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64])
def test_tokens_on_a_device_are_the_tokens(dtype, monkeypatch):
    """Also ids above half of their type: they are there as signed numbers. (Here the device is the CPU's memory.)"""
    largest = 70_000 if dtype != np.uint16 else 65_535
    windows = Windows((np.arange(500) * 131 % largest).astype(dtype), 16, seed=3)
    monkeypatch.setattr(torch, "empty", lambda n, dtype, device: torch.zeros(n, dtype=dtype))
    moved = windows.moved_to(torch.device("cuda"))
    assert moved.on_device is not None and moved.on_device.dtype in (torch.int16, torch.int32, torch.int64)
    for step in range(20):
        assert all(torch.equal(a, b) for a, b in zip(moved.batch(step, 4), windows.batch(step, 4), strict=True))


def test_tokens_that_are_too_many_stay(monkeypatch):
    monkeypatch.setattr("tinygpt.data.ON_DEVICE_BYTES", 999)
    assert Windows(np.zeros(500, dtype=np.uint16), 16, 0).moved_to(torch.device("cuda")).on_device is None
    assert Windows(np.zeros(400, dtype=np.uint16), 16, 0).moved_to(torch.device("cpu")).on_device is None
