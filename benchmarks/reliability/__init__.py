"""What tinygpt promises about runs, checkpoints and files, tried with the real thing and counted.

    python -m benchmarks.reliability                  every row in full -> docs/reliability.md
    python -m benchmarks.reliability --short          every row as `make test` tries it, printed
    python -m benchmarks.reliability --row R02 R03    some rows; the others keep their line

One module per promise, each with a function `row(scale)` that returns a `Row`, and, where taking a guard away must
show, with `controls`: the same trials against a package without the guard, which have to fail.
"""

ROWS = {  # what is tried here, by its number in the list of promises -> module
    "R01": "resume", "R02": "crash", "R03": "damage", "R04": "data", "R05": "disk", "R06": "signals",
    "R07": "nonfinite", "R08": "spikes", "R09": "outofmemory", "R10": "mismatch", "R11": "processes",
    "R12": "pickles", "R13": "names", "R14": "limits", "R15": "hardtext", "R16": "slowclients", "R17": "load",
    "R18": "cancelled", "R19": "shutdown", "R20": "origins", "R21": "specials", "R22": "streaming",
    "R23": "tokenizing", "R24": "determinism", "R27": "hostile", "R29": "logs", "GPU": "gpu",
}  # fmt: skip
ELSEWHERE = {
    "R25": "not here: 1, 2 and 4 gloo ranks are compared in tests/exactness/test_distributed.py",
    "R26": "not here: ranks are killed and stopped in tests/exactness/test_distributed.py",
    "R28": "not here: exports are compared and interrupted in tests/unit/test_export.py and tests/reference/",
    "GPU": "not run to its end yet, it needs a GPU; recorded steps and plain ones are compared, bit for bit, in "
    "tests/exactness/test_captured.py (18 passed on an H200, 2026-11-24)",
    "R30": "not run: hours of training and serving, before a release",
}  # fmt: skip
