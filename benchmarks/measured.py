"""A process as the operating system saw it: exit code, seconds, processor seconds, peak resident memory.

`run` starts this very file as a small helper, and the helper starts the command. The detour is for the memory: a
process inherits the peak of the one that started it, and the helper's is some 10 MB.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TIMED_OUT = -1  # the exit code that stands for "killed, because it took too long"


@dataclass(frozen=True)
class Finished:
    """A process that has ended."""

    exit_code: int  # TIMED_OUT, or minus the number of the signal that ended it, or what it returned
    seconds: float  # from its start to its end
    cpu_s: float  # processor time of all its threads
    peak_rss_bytes: int  # largest resident memory; of its child processes the largest, not the sum
    out: str
    err: str


def run(command: Sequence[str | Path], folder: Path, environment: Mapping[str, str], timeout_s: float) -> Finished:
    """Run the command in `folder` to its end; after `timeout_s` it is killed together with its child processes."""
    with tempfile.TemporaryDirectory() as temporary:
        report, out, err = (Path(temporary) / name for name in ("report", "out", "err"))
        words = [sys.executable, "-P", __file__, str(report), str(timeout_s), *map(str, command)]
        with out.open("wb") as out_file, err.open("wb") as err_file:
            subprocess.run(
                words, cwd=folder, env=dict(environment), check=True, stdin=subprocess.DEVNULL, stdout=out_file,
                stderr=err_file,
            )  # fmt: skip
        texts = (path.read_bytes().decode(errors="replace") for path in (out, err))
        return Finished(*json.loads(report.read_text()), *texts)


def main() -> None:
    """The helper: REPORT TIMEOUT_S COMMAND ...; writes [exit code, seconds, cpu seconds, peak bytes] to REPORT."""
    report, timeout_s, *command = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.perf_counter()
    child = subprocess.Popen(command, start_new_session=True)
    late = threading.Timer(float(timeout_s), end_group, [child.pid])
    late.daemon = True
    late.start()
    try:
        _, status, usage = os.wait4(child.pid, 0)
    finally:
        timed_out = not late.is_alive()
        late.cancel()
        end_group(child.pid)  # also what the command left running, and all of it if this helper is interrupted
    seconds = time.perf_counter() - began
    exit_code = TIMED_OUT if timed_out else os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB on Linux
    result = [exit_code, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit]
    Path(report).write_text(json.dumps(result))


def end_group(process_id: int) -> None:
    """Kill the process and its children, if there are any left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process_id, signal.SIGKILL)


if __name__ == "__main__":
    main()
