"""The real sinks, read back: what metrics.jsonl holds is what they hold, each record once, with no network at all."""

import json
import os
import shutil
import struct
import subprocess
import sys

import pytest
from command_line import environment, inside, tinygpt

from tinygpt.records import read
from tinygpt.tracking import KINDS, figures

QUIET = ("precision=fp32", "device=cpu", "compiled=no", "threads=1", "eval_every=4", "save_every=4", "log_every=1")
# Of other people's packages, imported inside a test where every warning is an error.
pytestmark = [
    pytest.mark.filterwarnings("ignore"), pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
]  # fmt: skip
RUN = [sys.executable, "-m", "tinygpt"]


@pytest.fixture
def here(tmp_path, trained):
    with inside(tmp_path):
        shutil.copytree(trained, tmp_path / "runs" / "base")
        shutil.copy(trained.parent / "stories.jsonl", tmp_path / "stories.jsonl")
        yield tmp_path


def run(here, *words, kill_after=None):
    """The command in a process of its own; killed once so many records stand in the log of the run x."""
    blocked = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "WANDB_SILENT": "true"}
    own = {"TRACKIO_DIR": str(here / "trackio"), "HOME": str(here), "WANDB_CACHE_DIR": str(here / "cache")}
    process = subprocess.Popen(
        [*RUN, *map(str, words)], cwd=here, env={**environment(here), **blocked, **own}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    metrics = here / "runs" / "x" / "metrics.jsonl"
    while kill_after and process.poll() is None:
        if metrics.exists() and metrics.read_bytes().count(b'"train"') >= kill_after:
            process.kill()
    out, _ = process.communicate(timeout=300)
    assert process.returncode == (-9 if kill_after else 0), out
    return out


def expected(here):
    """(step, figures) of every train and eval record in metrics.jsonl."""
    records = [r for r in read(here / "runs" / "x" / "metrics.jsonl") if r["kind"] in KINDS]
    return [(r["step"], figures(r)) for r in records]


TRAIN = ("train", "stories.jsonl", "--from", "base", "--run", "x", "--steps", 12, *QUIET)


def in_tensorboard(here):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found = []
    for path in sorted((here / "runs" / "x" / "tensorboard").iterdir()):
        for event in EventFileLoader(str(path)).Load():
            values = {
                v.tag: v.tensor.float_val[0] if v.tensor.float_val else v.simple_value for v in event.summary.value
            }
            found += [(event.step, values)] if values else []
    return found


def in_wandb(here):
    from wandb.proto import wandb_internal_pb2

    found = []
    for path in sorted((here / "runs" / "x" / "wandb").glob("offline-run-*/*.wandb")):
        for data in leveldb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.HasField("history"):
                items = {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
                found.append((items["step"], {k: v for k, v in items.items() if "/" in k}))
    return found


def leveldb_records(data, header=7, block=32_768):
    """The records of a .wandb file: LevelDB's log format behind a header; a torn end is left out."""
    at, parts = header, []
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])  # kind: 1 whole, 2 first, 3 middle, 4 last part
        if kind == 0:
            return
        parts.append(data[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):
            yield b"".join(parts)
            parts = []


def in_trackio(here):
    code = "from trackio.sqlite_storage import SQLiteStorage as S; print(json.dumps(S.get_logs('tinygpt', 'x')))"
    own = {"TRACKIO_DIR": str(here / "trackio"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", f"import json; {code}"], env={**os.environ, **own}, capture_output=True, text=True
    )
    return [(r["step"], {k: v for k, v in r.items() if "/" in k}) for r in json.loads(done.stdout)]


READERS = {"tensorboard": in_tensorboard, "wandb": in_wandb, "trackio": in_trackio}


def assert_held(here, name, lost=0):
    """The sink holds every record of the log once; a kill may have lost the last ones before it (`lost` at most)."""
    pytest.importorskip(name, reason=f"{name} is not installed: the sink is unchecked")
    wanted, found = expected(here), READERS[name](here)
    keys = lambda pairs: [(step, min(values)) for step, values in pairs]  # noqa: E731
    assert len(set(keys(found))) == len(found), "a record stands there twice"
    missing = [pair for pair in wanted if (pair[0], min(pair[1])) not in keys(found)]
    assert len(missing) <= lost and set(keys(found)) <= set(keys(wanted))
    of = {(step, min(values)): values for step, values in found}
    for step, values in wanted:
        there = of.get((step, min(values)), values)
        assert there.keys() == values.keys()
        for figure, value in values.items():
            if not figure.endswith(("time_s", "tokens_per_s")):  # of the other try of a step that was done twice
                assert there[figure] == pytest.approx(value, rel=1e-6), (step, figure)


@pytest.mark.parametrize("name", READERS)
def test_what_the_log_holds_the_sink_holds(here, name):
    pytest.importorskip(name, reason=f"{name} is not installed: the sink is unchecked")
    out = run(here, *TRAIN, f"--{name}")
    assert "gets no more records" not in out
    assert name not in out.lower()  # nor does it speak when Python ends
    assert len(expected(here)) == 12 + 4
    assert_held(here, name)


@pytest.mark.parametrize("name", READERS)
def test_killed_and_resumed_no_record_comes_twice(here, name):
    """And a session without the sink in between is made up for."""
    pytest.importorskip(name, reason=f"{name} is not installed: the sink is unchecked")
    run(here, *TRAIN, f"--{name}", kill_after=6)
    out = run(here, "train", "--resume", "--run", "x", f"--{name}")
    assert "gets no more records" not in out
    assert_held(here, name, lost=8)  # what the sink had taken and not yet written when it was killed


def test_a_sink_that_is_asked_for_late_gets_what_came_before(here):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: the sink is unchecked")
    assert tinygpt(*TRAIN, "max_time_s=1e-9", "--quiet").code == 0
    run(here, "train", "--resume", "--run", "x")
    assert not (here / "runs" / "x" / "tensorboard").exists()
    run(here, "train", "--resume", "--run", "x", "--tensorboard")
    assert_held(here, "tensorboard")
