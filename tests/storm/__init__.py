"""Storms on live clusters: everything breaks at random, by a seed, while every core is wanted by others.

    python -m tests.storm --host process --seed 7 --seconds 60 --pressure 8      # one storm
    python -m tests.storm --host ray --cycles 5 --pressure 8                     # up, work, kill -9 of everything, up

A storm's `plan` is a pure function of its parameters. `faults` carries it out, in the steps of `rayplane chaos run`
and some that only a test takes; `load` works meanwhile. In the end everything must have come to rest (`rest`), every
acknowledged write must be there (`oracle`), and `rayplane status` must have told the truth all along (`truth`).
"""
