"""What a run writes down while it trains, and what those figures mean. No torch, no terminal.

Log       metrics.jsonl and samples.jsonl of a run folder: append, sizes, cut back, sync
read      the records of one such file; a torn last line is ignored
verdict   evaluation records -> the plain sentences of the closing report

{"kind": "train", "step", "loss" [nats/token], "lr", "grad_norm", "tokens", "tokens_per_s", "time_s"}
{"kind": "eval", "step", "train_loss"?, "val_loss" [nats/token], "train_bpb"?, "val_bpb", "best", "time_s"}
{"kind": "health", "step", "weight_norm": {layer: norm}, "update_norm": {layer: norm}}  (health.py)
{"kind": "event", "step", "text", "back_to"?, "spikes"?}  samples.jsonl: {"step", "prompt", "text", "seed"}
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tinygpt.errors import BAD_INPUT, UserError
from tinygpt.storage import append, cut, fsync_file, read_regular

METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"
_RAW_CONTROL = re.compile("[\x7f-\x9f\u2028\u2029]")  # what JSON leaves as it is and a terminal or line reader obeys


def _without_non_finite(value: Any) -> tuple[Any, bool]:
    """`value` with every NaN and infinity inside it as None, and whether there was one."""
    if isinstance(value, float) and not math.isfinite(value):
        return None, True
    if isinstance(value, Mapping):
        pairs = {key: _without_non_finite(item) for key, item in value.items()}
        return {key: item for key, (item, _) in pairs.items()}, any(bad for _, bad in pairs.values())
    if isinstance(value, list | tuple):
        items = [_without_non_finite(item) for item in value]
        return [item for item, _ in items], any(bad for _, bad in items)
    return value, False


def encode_record(fields: Mapping[str, Any]) -> bytes:
    """One JSON line. Values that are not finite become null, and "non_finite" names their fields.

    Other scripts stay readable; control characters are escaped, so that showing the file cannot drive a terminal.
    """
    clean = {name: _without_non_finite(value) for name, value in fields.items()}
    record = {name: value for name, (value, _) in clean.items()}
    if flagged := [name for name, (_, bad) in clean.items() if bad]:
        record["non_finite"] = flagged
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    text = _RAW_CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    return text.encode("utf-8", "backslashreplace") + b"\n"  # a lone surrogate becomes its JSON escape


class Log:
    """The two log files of a run folder; only the process that holds the run's lock may write.

    Nothing stays open between records. A record that cannot be written (disk full) waits in memory for the next one,
    and is said once; `sync` raises OSError as long as something waits.
    """

    def __init__(self, folder: Path | str, say: Callable[[str], None] = lambda _: None) -> None:
        self.folder = Path(folder)
        self.say = say
        self.waiting: list[tuple[str, bytes]] = []  # file and line, oldest first
        self.also: dict[str, Any] = {}  # fields of every metric
        self.listeners: list[Callable[[dict[str, Any]], None]] = []  # are given every metric too

    def metric(self, **fields: Any) -> None:
        """Append a train, eval, health or event record to metrics.jsonl."""
        record = {**fields, **self.also}
        self._append(METRICS, encode_record(record))
        for listen in self.listeners:
            listen(record)

    def sample(self, **fields: Any) -> None:
        """Append a drawn text to samples.jsonl."""
        self._append(SAMPLES, encode_record(fields))

    def _append(self, name: str, line: bytes) -> None:
        quiet = bool(self.waiting)
        self.waiting.append((name, line))
        try:
            self._write()
        except OSError as error:
            if not quiet:
                self.say(f"{name} cannot be written ({error.strerror}); its records wait in memory, training goes on.")

    def _write(self) -> None:
        """Write what waits, in its order. Errors: OSError; then no part of the line that failed remains."""
        while self.waiting:
            name, line = self.waiting[0]
            append(self.folder / name, line)
            del self.waiting[0]

    def sizes(self) -> dict[str, int]:
        """Bytes of both logs, for state.json; 0 for a file that is not there yet."""
        paths = {name: self.folder / name for name in (METRICS, SAMPLES)}
        return {name: path.stat().st_size if path.exists() else 0 for name, path in paths.items()}

    def cut(self, sizes: Mapping[str, int], names: Sequence[str] = (METRICS, SAMPLES)) -> list[str]:
        """Cut logs back to the `sizes` of a checkpoint; returns a sentence for each log that is shorter than that.

        What is left ends with a whole line in any case. A file is never made longer (truncation would pad with zeros).
        """
        missing = []
        for name in names:
            present, wanted = self.sizes()[name], sizes.get(name, 0)
            kept = min(present, wanted)
            if present:
                kept = read_regular(self.folder / name)[:kept].rfind(b"\n") + 1
                cut(self.folder / name, kept)
            if kept < wanted:
                missing.append(f"{name} lacks {wanted - kept} bytes that it had at the checkpoint.")
        return missing

    def sync(self) -> None:
        """Write what waits and fsync both logs: what was recorded survives a power cut from here on."""
        self._write()
        for name, present in self.sizes().items():
            if present:
                fsync_file(self.folder / name)


class NoLog(Log):
    """For a rank that keeps no books, because the first one does: takes everything, writes nothing."""

    def _append(self, name: str, line: bytes) -> None:
        pass

    def cut(self, sizes: Mapping[str, int], names: Sequence[str] = (METRICS, SAMPLES)) -> list[str]:
        return []

    def sync(self) -> None:
        pass


def read(path: Path | str) -> list[dict[str, Any]]:
    """The records of a log that count, oldest first; [] if there is no such file. See `read_all` and `counting`."""
    return counting(read_all(path))


def counting(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what a run had recorded, but for events, beyond a checkpoint that it went back to ("back_to")."""
    kept: list[dict[str, Any]] = []
    for record in records:
        if isinstance(back_to := record.get("back_to"), int):
            kept = [r for r in kept if r.get("kind") == "event" or r.get("step", 0) <= back_to]
        kept.append(record)
    return kept


def read_all(path: Path | str) -> list[dict[str, Any]]:
    """Every record of a log, oldest first; [] if there is no such file.

    A line counts once its newline is written. Raises UserError (exit 65) naming a whole line that is no JSON object.
    """
    path = Path(path)
    if not path.exists():
        return []
    records: list[dict[str, Any]] = []
    whole = read_regular(path).split(b"\n")[:-1]  # after the last newline: nothing, or a torn line
    for number, line in enumerate(whole, start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise UserError(f"{path}, line {number} is not a JSON object; delete that line.", BAD_INPUT)
        records.append(record)
    return records


# ---- what the figures mean -------------------------------------------------------------------------------------

OVERFIT = 0.02  # a rise of the validation figure above its best that is more than noise
STILL_FALLING = 0.01  # a fall over the last three evaluations that promises more


def _bpb(record: Mapping[str, Any], name: str = "val_bpb") -> float | None:
    """A figure that can be compared; None if it is missing or not finite."""
    value = record.get(name)
    return float(value) if value is not None and math.isfinite(value) else None


def verdict(
    evals: Sequence[Mapping[str, Any]], baselines: Mapping[str, float], floor: float | None = None
) -> list[str]:
    """Is this normal, and what next? The closing report in plain sentences, the most important first.

    evals: evaluation records in order, with step, val_bpb and perhaps train_bpb [bits/byte]. baselines: bits per byte
    of "unigram", "bigram", "xz" on the same validation text; one that is missing is not mentioned. floor: the known
    entropy of the text [bits/byte], None if nobody knows it.
    """
    scored = [(int(record["step"]), value, record) for record in evals if (value := _bpb(record)) is not None]
    diverged = bool(evals) and _bpb(evals[-1]) is None
    said = []
    if diverged:
        said.append(
            f"At step {evals[-1]['step']:,} the validation figure is not a number: the run broke down. The learning "
            "rate is probably too high; try a third of it."
        )
    if not scored or scored[-1][0] == 0:
        return [*said, "The trained model was not evaluated, so there is nothing to judge yet."]
    best_step, best, best_record = min(scored, key=lambda item: item[1])
    last_step, last, last_record = scored[-1]
    recent = [value for _, value, _ in scored[-3:]]
    falling = recent[-1] < recent[0] * (1 - STILL_FALLING) and recent == sorted(recent, reverse=True)
    overfit = best_step < last_step and last > best * (1 + OVERFIT)

    headline = f"Best: {best:.3f} bits per byte on unseen text, at step {best_step:,}. "
    said.append((headline + _place(best, baselines, falling)).rstrip())
    if floor is not None and 0 < floor < math.inf:
        above = 100 * (best / floor - 1)
        if above < -1:
            said.append(
                f"That is below the floor of {floor:.3f}, which no model can do honestly: validation text is "
                "probably in the training text."
            )
        elif above < 1:
            said.append(f"That is at the floor of {floor:.3f}: nothing is left to learn from this text.")
        else:
            said.append(
                f"The chance in the text itself costs {floor:.3f} (the floor); this run is {above:.0f} % above it."
            )

    train, train_at_best = _bpb(last_record, "train_bpb"), _bpb(best_record, "train_bpb")
    if overfit:
        rise = f"from {best:.3f} to {last:.3f} (+{100 * (last / best - 1):.0f} %)"
        if train is not None and train_at_best is not None and train > train_at_best * (1 + OVERFIT):
            said.append(
                f"Since step {best_step:,} the validation figure rose {rise}, and the training figure too: the run "
                "became unstable. Lower the learning rate."
            )
        else:
            said.append(
                f"Over-fitting since step {best_step:,}: the validation figure rose {rise} while the model went on "
                "learning its training text by heart. Fewer steps, more text or more dropout help."
            )
    if train is not None and train > 0:
        figures, gap = f"Training text {train:.3f}, unseen text {last:.3f}", 100 * (last / train - 1)
        if gap < 0:
            said.append(
                f"{figures}: no gap, it generalises. (The training text is scored while the model still learns from "
                "it, with dropout and before the last updates, so its figure can stand above the other.)"
            )
        else:
            comment = "it generalises" if gap < 10 else "learnt by heart, or the unseen text is of another kind"
            said.append(f"{figures}: a gap of {gap:.0f} %, {comment}.")
    if falling and not diverged:
        said.append(f"The last evaluations still fall ({recent[0]:.3f} to {recent[-1]:.3f}): more minutes would help.")
    elif len(scored) >= 3 and not overfit and not diverged and max(recent) <= min(recent) * (1 + STILL_FALLING):
        said.append(
            "The last evaluations are level: more minutes alone help little; more text or a bigger model would."
        )
    return said


def _place(best: float, baselines: Mapping[str, float], falling: bool) -> str:
    """Where `best` stands on the ladder unigram, bigram, xz, in a sentence or two."""
    unigram, bigram, xz = (_bpb(baselines, name) for name in ("unigram", "bigram", "xz"))
    if unigram is not None and best > unigram:
        worse = f"That is worse than only counting how often each piece of text occurs (unigram {unigram:.3f})"
        if falling:
            return worse + ", but still falling: train longer; if that does not help, lower the learning rate."
        return worse + ". Something is wrong: the learning rate is probably too high. Try a tenth of it."
    if bigram is not None and best > bigram:
        return f"It has learnt letters and common words, not yet what follows what (bigram {bigram:.3f}): train longer."
    if xz is not None and best > xz:
        return (
            f"It knows which words follow each other, though the compressor xz ({xz:.3f}) still packs the text tighter."
        )
    if xz is not None:
        return f"That is normal and good: better than the compressor xz ({xz:.3f})."
    return f"That is better than the bigram count ({bigram:.3f})." if bigram is not None else ""
