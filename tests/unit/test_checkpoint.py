"""Checkpoints are whole or not there: every damage is rejected with its reason, and the one before is used."""

import io
import json
import os
from pathlib import Path

import pytest
import torch

from tinygpt import checkpoint, storage
from tinygpt.checkpoint import Progress
from tinygpt.config import TrainConfig
from tinygpt.errors import UserError
from tinygpt.optim import make_optimizer
from tinygpt.storage import canonical, sha256

DIGESTS = {"tokenizer": "a" * 64, "data": "b" * 64}
FILES = ["model.safetensors", "optim.safetensors", "state.json", "MANIFEST.json"]


@pytest.fixture
def model(make_model):
    return make_model("gpt2")


@pytest.fixture
def optimizer(model):
    return trained_a_bit(model)


def trained_a_bit(model):
    """An optimizer with moments that are not 0."""
    optimizer = make_optimizer(model, TrainConfig(lr=0.01))
    for step in range(2):
        optimizer.zero_grad()
        model(torch.arange(8)[None] + step).square().mean().backward()
        optimizer.step()
    return optimizer


@pytest.fixture
def run(tmp_path, model, optimizer):
    """Checkpoints of the steps 5, 10 and 15; 10 is the best."""
    for step in (5, 10, 15):
        save(tmp_path, step, model, optimizer, best=step == 10)
    return tmp_path


def save(run, step, model, optimizer, best=False):
    best_bpb, best_step = (1 / (1 + step), step) if best else (0.0, -1)  # later is better
    progress = Progress(step=step, time_s=step / 10, best_bpb=best_bpb, best_step=best_step)
    return checkpoint.save(run, model, optimizer, progress, DIGESTS)


def folder(run, step):
    return run / "checkpoints" / f"step-{step:08d}"


def flip(path, place=-2):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def rewrite_manifest(path, **changes):
    """A manifest that is consistent in itself, as another version of the package would write it."""
    manifest = json.loads((path / "MANIFEST.json").read_bytes())
    manifest.pop("sha256")
    manifest |= changes
    manifest["sha256"] = sha256(canonical(manifest))
    (path / "MANIFEST.json").write_bytes(canonical(manifest))


# --- round trip ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["tutorial", "gpt2", "modern"])
def test_weights_and_optimizer_come_back_bit_for_bit(tmp_path, make_model, preset):
    model = make_model(preset, seed=1)
    optimizer = trained_a_bit(model)
    save(tmp_path, 7, model, optimizer)
    loaded, rejected = checkpoint.load(tmp_path, "last", DIGESTS)
    assert (loaded.name, loaded.step, rejected) == ("step-00000007", 7, [])
    assert loaded.progress == Progress(step=7, time_s=0.7, best_bpb=0.0, best_step=-1)
    other = make_model(preset, seed=2)
    fresh = make_optimizer(other, TrainConfig(lr=0.01))
    checkpoint.load_model(other, loaded.model)
    checkpoint.load_optimizer(other, fresh, loaded.optim)
    for m, o in ((model, optimizer), (other, fresh)):  # and both go on alike
        o.zero_grad()
        m(torch.arange(9)[None]).square().mean().backward()
        o.step()
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert all(torch.equal(optimizer.state[a][key], fresh.state[b][key]) for key in optimizer.state[a]), name
        keys = {"step", "exp_avg", "exp_avg_sq", "mean"}, {"momentum", "mean"}
        assert set(optimizer.state[a]) == set(fresh.state[b]) in keys


def test_a_tied_head_is_stored_once(run):
    loaded = checkpoint.load(run)[0]
    assert "head.weight" not in loaded.model and "embedding.weight" in loaded.model


def test_only_plain_files_are_written(run):
    assert sorted(p.name for p in folder(run, 5).iterdir()) == sorted(FILES)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == sorted(
        ["BEST", "LATEST", "step-00000005", "step-00000010", "step-00000015"]
    )


def test_which_checkpoint(run):
    assert checkpoint.load(run)[0].step == 15
    assert checkpoint.load(run, "best")[0].step == 10
    assert checkpoint.load(run, "5")[0].step == 5
    with pytest.raises(UserError, match=r"no checkpoint of step 7 \(steps there: 5, 10, 15\)") as error:
        checkpoint.load(run, "7")
    assert error.value.exit_code == 72


def test_a_step_may_be_that_of_a_snapshot(run, model):
    """Pins: the studio's slider reaches steps whose checkpoint was pruned or never written; a damaged one is named."""
    checkpoint.save_snapshot(run, 7, model)
    loaded, rejected = checkpoint.load(run, "7")
    assert (loaded.step, rejected, checkpoint.steps_kept(run)) == (7, [], [5, 7, 10, 15])
    assert all(torch.equal(loaded.model[name], p) for name, p in model.named_parameters())
    assert checkpoint.load(run)[0].step == 15, "the newest checkpoint, not the newest snapshot, is gone on with"
    path = run / "snapshots" / "step-00000007.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"step-00000007\.safetensors") as error:
        checkpoint.load(run, "7")
    assert error.value.exit_code == 72


def test_the_digest_of_weights_is_that_of_their_file(run, model):
    checkpoint.load_model(model, checkpoint.load(run, "5")[0].model)
    assert checkpoint.weights_sha256(model) == sha256((folder(run, 5) / "model.safetensors").read_bytes())


def test_pointers_are_not_trusted(run):
    """Lost, wrong or rubbish: what is the best stands in the manifests."""
    for words in (None, "step-00000099\n", "step-00000005\n", "../..\n"):
        for pointer in ("BEST", "LATEST"):
            (run / "checkpoints" / pointer).unlink()
            if words:
                (run / "checkpoints" / pointer).write_text(words)
            else:
                (run / "checkpoints" / pointer).touch()
        assert checkpoint.load(run, "best")[0].step == 10 and checkpoint.load(run)[0].step == 15


def test_best_falls_back_to_the_next_best_and_then_to_the_newest(run, model, optimizer):
    save(run, 20, model, optimizer, best=True)
    assert checkpoint.load(run, "best")[0].step == 20
    flip(folder(run, 20) / "state.json")
    assert checkpoint.load(run, "best")[0].step == 10
    flip(folder(run, 10) / "MANIFEST.json")
    loaded, rejected = checkpoint.load(run, "best")
    assert loaded.step == 15 and "step-00000020" in rejected[0] and len(rejected) == 1


def test_the_start_is_the_best_only_against_weights_that_were_validated(tmp_path, model, optimizer):
    """Pins: a run that was stopped before its second validation wrote with its untrained weights."""

    def saved(step, best_step, since_best):
        progress = Progress(step=step, best_bpb=2.0, best_step=best_step, since_best=since_best)
        checkpoint.save(tmp_path, model, optimizer, progress, DIGESTS)
        pointer = (tmp_path / "checkpoints" / "BEST").read_text().strip()
        return checkpoint.load(tmp_path, "best")[0].step, pointer

    assert saved(0, 0, 0) == (0, "step-00000000")
    assert saved(7, 0, 0) == (7, "step-00000007")
    assert saved(9, 0, 0) == (9, "step-00000009")
    assert saved(20, 0, 1) == (0, "step-00000000")  # validated, and worse than the start
    assert saved(30, 30, 0) == (30, "step-00000030")


def test_weights_of_another_shape_are_exit_66(run, make_model):
    tensors = checkpoint.load(run)[0].model
    for other in (make_model("modern"), make_model("gpt2", n_layers=3), make_model("gpt2", d_ff=64)):
        with pytest.raises(UserError, match="weights do not fit the model") as error:
            checkpoint.load_model(other, tensors)
        assert error.value.exit_code == 66


# --- damage ----------------------------------------------------------------------------------------------------------


def rejected_because(run, words):
    """The newest is rejected in a sentence with `words`, and the one before it is used."""
    loaded, rejected = checkpoint.load(run, "last", DIGESTS)
    assert loaded.step == 10 and len(rejected) == 1
    assert rejected[0].startswith("step-00000015 is not usable: ") and words in rejected[0]


@pytest.mark.parametrize("name", FILES[:3])
def test_a_flipped_bit(run, name):
    for place in (0, 100, -2):
        flip(folder(run, 15) / name, place % (folder(run, 15) / name).stat().st_size)
        rejected_because(run, f"{name} is damaged")
        flip(folder(run, 15) / name, place % (folder(run, 15) / name).stat().st_size)
    assert checkpoint.load(run)[0].step == 15


def test_any_flipped_byte_of_the_manifest(run):
    path = folder(run, 15) / "MANIFEST.json"
    good = path.read_bytes()
    for place in range(0, len(good), 3):
        flip(path, place)
        loaded, rejected = checkpoint.load(run)
        assert loaded.step == 10 and len(rejected) == 1, place
        path.write_bytes(good)
    assert checkpoint.load(run)[0].step == 15


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [0, 0.5, -1])
def test_truncation(run, name, keep):
    path = folder(run, 15) / name
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if keep >= 0 else keep])
    rejected_because(run, name if name != "MANIFEST.json" else "")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(run, name):
    (folder(run, 15) / name).unlink()
    rejected_because(run, name)


def test_a_file_swapped_for_a_link_is_not_followed(run):
    path = folder(run, 15) / "model.safetensors"
    path.rename(run / "elsewhere")
    path.symlink_to(run / "elsewhere")
    rejected_because(run, "model.safetensors: a link, not a file")


def test_a_renamed_folder(run):
    """A checkpoint copied to another number would make a run go on at the wrong step."""
    folder(run, 15).rename(folder(run, 16))
    loaded, rejected = checkpoint.load(run)
    assert loaded.step == 10 and "step-00000016 is not usable: its manifest belongs to step 15" in rejected[0]


def test_another_format_version(run):
    rewrite_manifest(folder(run, 15), format_version=3)
    rejected_because(run, "format version 3, this tinygpt reads 2")


@pytest.mark.parametrize("changes", [{"files": {}}, {"files": None}, {"step": "x"}, {"step": 14}])
def test_a_manifest_that_agrees_with_itself_alone(run, changes):
    rewrite_manifest(folder(run, 15), **changes)
    rejected_because(run, "")


def test_none_valid_is_exit_72_with_every_reason(run):
    for step in (5, 10, 15):
        flip(folder(run, step) / "model.safetensors")
    with pytest.raises(UserError) as error:
        checkpoint.load(run)
    assert error.value.exit_code == 72
    assert str(error.value).count("model.safetensors is damaged") == 3


def test_no_checkpoint_at_all_is_exit_72(tmp_path):
    with pytest.raises(UserError, match=r"no valid checkpoint \(steps there: none\)") as error:
        checkpoint.load(tmp_path)
    assert error.value.exit_code == 72


@pytest.mark.parametrize("name", ["tokenizer", "data"])
def test_other_data_or_tokenizer_is_exit_66_with_both_digests(run, name):
    """No falling back here: an older checkpoint belongs to the same other data."""
    with pytest.raises(UserError) as error:
        checkpoint.load(run, "last", {**DIGESTS, name: "c" * 64})
    assert error.value.exit_code == 66
    assert DIGESTS[name][:12] in str(error.value) and "c" * 12 in str(error.value) and name in str(error.value)


def restate(path, **changes):
    """state.json with other fields and a manifest that fits it, as another program would write them."""
    state = json.loads((path / "state.json").read_bytes())
    data = canonical({name: value for name, value in {**state, **changes}.items() if value is not ...})
    (path / "state.json").write_bytes(data)
    files = json.loads((path / "MANIFEST.json").read_bytes())["files"]
    files["state.json"] = {"bytes": len(data), "sha256": sha256(data)}
    rewrite_manifest(path, files=files)


def test_a_state_with_a_field_less_is_no_checkpoint(run):
    """Each in turn: a default where a number was would make another run of it."""
    before = {path.name: path.read_bytes() for path in folder(run, 15).iterdir()}
    for name in vars(Progress()):
        restate(folder(run, 15), **{name: ...})
        rejected_because(run, name)
        for file, data in before.items():
            (folder(run, 15) / file).write_bytes(data)
    assert checkpoint.load(run)[0].step == 15


@pytest.mark.parametrize(
    "changes",
    [{"luck": 7}, {"step": "15"}, {"step": True}, {"logs": []}, {"rate": None}, {"skipped": {}}, {"step": 14}],
)
def test_a_state_of_another_kind_is_no_checkpoint(run, changes):
    restate(folder(run, 15), **changes)
    rejected_because(run, "state.json")


@pytest.mark.parametrize("name", FILES)
def test_a_pipe_under_a_files_name_stops_nobody(run, name):
    """Opening one waits for a writer, for ever."""
    (folder(run, 15) / name).unlink()
    os.mkfifo(folder(run, 15) / name)
    rejected_because(run, name)


def test_json_that_is_too_deep_or_too_large_is_rejected(run):
    for data in (b"[" * 60_000, b" " * (checkpoint.MANIFEST_BYTES + 1)):
        (folder(run, 15) / "MANIFEST.json").write_bytes(data)
        rejected_because(run, "")


def test_an_optimizer_of_another_model_is_exit_66(run, make_model):
    tensors = checkpoint.load(run)[0].optim
    for model in (make_model("modern"), make_model("gpt2", n_embd=64)):
        with pytest.raises(UserError, match="does not fit the model") as error:
            checkpoint.load_optimizer(model, make_optimizer(model, TrainConfig()), tensors)
        assert error.value.exit_code == 66


def test_weights_that_are_not_finite_are_not_saved(run, model, optimizer):
    with torch.no_grad():
        model.embedding.weight[3, 3] = float("nan")
    with pytest.raises(UserError, match=r"embedding.weight is not finite") as error:
        save(run, 20, model, optimizer)
    assert error.value.exit_code == 70 and checkpoint.load(run)[0].step == 15


def test_batches_that_are_skipped_are_never_drawn():
    skipped = [3, 4, 7]
    numbers = [Progress(step=step, skipped=skipped).batch for step in range(8)]
    assert numbers == [0, 1, 2, 5, 6, 8, 9, 10]


# --- pruning ---------------------------------------------------------------------------------------------------------


def test_three_newest_and_the_best_are_kept(tmp_path, model, optimizer):
    for step in range(10, 110, 10):
        save(tmp_path, step, model, optimizer, best=step in (20, 40))
    names = [p.name for p in checkpoint.step_folders(tmp_path / "checkpoints")]
    assert names == [f"step-{step:08d}" for step in (100, 90, 80, 40)]


def test_snapshots_are_never_pruned(tmp_path, model, optimizer):
    for step in range(6):
        checkpoint.save_snapshot(tmp_path, step, model)
        save(tmp_path, step, model, optimizer)
    assert len(list((tmp_path / "snapshots").iterdir())) == 6


def test_what_is_damaged_does_not_count_as_kept(tmp_path, model, optimizer):
    """Or three that the disk has spoilt would push out the only one that is whole."""
    for step in (10, 20, 30):
        save(tmp_path, step, model, optimizer)
    for step in (20, 30):
        flip(folder(tmp_path, step) / "model.safetensors")
    said = save(tmp_path, 40, model, optimizer)
    assert [path.name[-2:] for path in checkpoint.step_folders(tmp_path / "checkpoints")] == ["40", "30", "20", "10"]
    assert len(said) == 2 and "step-00000030 is damaged and does not count" in said[0]
    for step in (50, 60):
        save(tmp_path, step, model, optimizer)
    assert [path.name[-2:] for path in checkpoint.step_folders(tmp_path / "checkpoints")] == ["60", "50", "40"]


def test_a_reader_looks_again_when_what_it_reads_is_pruned(run, model, optimizer, monkeypatch):
    """No sentence about a damaged file: nothing was damaged."""
    verify = checkpoint.verify

    def pruned_first(path):
        if path.name.endswith("15"):
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
            with monkeypatch.context() as patch:
                patch.setattr(checkpoint, "verify", verify)
                save(run, 20, model, optimizer)
        return verify(path)

    monkeypatch.setattr(checkpoint, "verify", pruned_first)
    loaded, rejected = checkpoint.load(run)
    assert loaded.step == 20 and rejected == []


# --- kills -----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Not an Exception: no handler of the package may swallow it."""


def kill_at(monkeypatch, nth, hard):
    """Raise at the nth durable write, half of it written; `hard`: nothing is tidied up, as after SIGKILL."""
    count = 0
    real = storage.write_durable

    def dying(path, data):
        nonlocal count
        count += 1
        if count == nth:
            path.write_bytes(data[: len(data) // 2])
            raise Killed
        real(path, data)

    monkeypatch.setattr(checkpoint, "write_durable", dying)
    monkeypatch.setattr(storage, "write_durable", dying)
    if hard:
        monkeypatch.setattr(checkpoint, "remove_if_possible", lambda _: None)
        monkeypatch.setattr(os, "unlink", lambda _: None)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("nth", range(1, 7))
def test_a_kill_in_the_middle_of_a_save_leaves_the_checkpoint_before(run, model, optimizer, monkeypatch, nth, hard):
    """Six durable writes: three files, the manifest, LATEST, BEST; dead at each of them in turn."""
    before = checkpoint.load(run)[0]
    with monkeypatch.context() as patch:
        kill_at(patch, nth, hard)
        with pytest.raises(Killed):
            save(run, 20, model, optimizer, best=True)
    loaded, rejected = checkpoint.load(run, "last", DIGESTS)
    assert rejected == []
    assert loaded.step == (15 if nth <= 4 else 20)
    if nth <= 4:
        assert all(torch.equal(before.model[name], loaded.model[name]) for name in before.model)
        assert checkpoint.load(run, "best")[0].step == 10
        assert hard or not list((run / "checkpoints").glob(".*"))
    checkpoint.sweep(run)
    assert not list((run / "checkpoints").glob(".*"))
    save(run, 20, model, optimizer, best=True)  # and the next save works
    assert checkpoint.load(run, "best")[0].step == 20


def test_there_are_six_durable_writes(run, model, optimizer, monkeypatch):
    """The test above would miss a write that is added."""
    count = []
    real = storage.write_durable
    for module in (checkpoint, storage):
        monkeypatch.setattr(module, "write_durable", lambda path, data: count.append(path.name) or real(path, data))
    save(run, 20, model, optimizer, best=True)
    assert len(count) == 6 and count[3] == "MANIFEST.json"


def test_a_kill_while_pruning_leaves_no_half_checkpoint(run, model, optimizer, monkeypatch):
    """Deleting file by file under its own name would leave a folder that looks like a checkpoint."""
    removed = []

    def dying(path):
        (path / "MANIFEST.json").unlink()
        removed.append(path.name)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "remove", dying)
        with pytest.raises(Killed):
            save(run, 20, model, optimizer)
    assert removed and checkpoint.load(run) and checkpoint.load(run)[0].step == 20
    assert [p.name for p in checkpoint.step_folders(run / "checkpoints")] == [
        "step-00000020", "step-00000015", "step-00000010",
    ]  # fmt: skip
    checkpoint.sweep(run)
    assert not list((run / "checkpoints").glob(".*"))


def test_saving_the_same_again_writes_nothing(run, model, optimizer, monkeypatch):
    """Every resume does so at once; making room for it would be a moment without the newest checkpoint."""
    monkeypatch.setattr(checkpoint, "write_durable", lambda *_: pytest.fail("written"))
    save(run, 15, model, optimizer)
    assert checkpoint.load(run)[0].step == 15


def test_a_checkpoint_set_aside_comes_back_when_its_successor_did_not_come(run):
    """Killed between the two renames; a half-deleted one stays gone."""
    folder(run, 15).rename(run / "checkpoints" / ".del-step-00000015-7")
    folder(run, 10).rename(run / "checkpoints" / ".del-step-00000010-7")
    (run / "checkpoints" / ".del-step-00000010-7" / "MANIFEST.json").unlink()
    removed = checkpoint.sweep(run)
    assert [path.name for path in removed] == [".del-step-00000010-7"]
    assert checkpoint.load(run)[0].step == 15 and checkpoint.leftovers(run) == []


def test_a_pointer_that_cannot_be_written_spoils_no_save(run, model, optimizer, monkeypatch):
    def full(path, _):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(checkpoint, "write_atomic", full)
    save(run, 20, model, optimizer, best=True)
    assert checkpoint.load(run)[0].step == checkpoint.load(run, "best")[0].step == 20
    assert len(checkpoint.step_folders(run / "checkpoints")) == 3 + 1 - 1  # pruned all the same


def test_a_damaged_best_is_said_before_it_goes(run, model, optimizer):
    flip(folder(run, 10) / "model.safetensors")
    said = [sentence for step in (20, 25, 30) for sentence in save(run, step, model, optimizer)]
    assert any("step-00000010 is damaged" in sentence for sentence in said)


def test_saving_a_step_again_replaces_it(run, model, optimizer):
    """After a fall-back to an older checkpoint the same steps are reached and saved once more."""
    with torch.no_grad():
        model.embedding.weight.add_(1)
    save(run, 15, model, optimizer)
    loaded, rejected = checkpoint.load(run)
    assert rejected == [] and torch.equal(loaded.model["embedding.weight"], model.embedding.weight)
    assert not list((run / "checkpoints").glob(".*"))


def test_a_step_saved_again_in_vain_keeps_its_first_checkpoint(run, model, optimizer, monkeypatch):
    """The old folder has made room by then, and must come back under its name."""
    rename = os.rename

    def refuse(path, target):
        if Path(path).name.startswith(".tmp-"):
            raise OSError("no rename here")
        return rename(path, target)

    before = (folder(run, 15) / "MANIFEST.json").read_bytes()
    with torch.no_grad():
        model.embedding.weight.add_(1)
    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="no rename here"):
        save(run, 15, model, optimizer)
    assert (folder(run, 15) / "MANIFEST.json").read_bytes() == before
    assert checkpoint.load(run)[0].step == 15


def test_a_full_disk_is_an_oserror_and_loses_nothing(run, model, optimizer, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_durable", full)
        with pytest.raises(OSError, match="No space"):
            save(run, 20, model, optimizer)
    assert checkpoint.load(run)[0].step == 15 and not list((run / "checkpoints").glob(".*"))


def test_nothing_is_unpickled(run):
    """A pickle under a checkpoint's name is rejected by its digest, before anybody reads it."""
    buffer = io.BytesIO()
    torch.save({}, buffer)
    (folder(run, 15) / "model.safetensors").write_bytes(buffer.getvalue())
    rejected_because(run, "model.safetensors has")
