"""What tinygpt promises about runs, checkpoints and files, tried with the real thing and counted.

    python -m benchmarks.reliability                  every row in full -> docs/reliability.md
    python -m benchmarks.reliability --short          every row as `make test` tries it, printed
    python -m benchmarks.reliability --row R02 R03    some rows; the others keep their line

One module per promise, each with a function `row(scale)` that returns a `Row`, and, where taking a guard away must
show, with `controls`: the same trials against a package without the guard, which have to fail.
"""
