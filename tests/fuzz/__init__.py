"""A fuzzer of everything that reads what others wrote: the wire, requests, files.

    python -m tests.fuzz [TARGET...] [--seed S] [--seconds N | --cases N] [--case K]

Each target (`targets/`) makes cases from a seeded rng (valid input that is then spoiled), and a world to run them in,
in this process. The judge (`judge.py`) is the same for all: nothing crashes, nothing is INTERNAL or 500, no trace in
the log, no hang, nothing is left open, and the world still answers a good request. `test_fuzz.py` runs a slice of each
target; `test_finds.py` holds what was found, each case named for what it showed.
"""
