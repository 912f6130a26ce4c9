"""The program that `ray start --block` becomes when all has started: it waits for the first of Ray's that ends.

A program by itself, with nothing of Ray or rayplane in it. Those processes are its children and end with it (prctl(2),
PDEATHSIG).
"""

import os
import sys

if __name__ == "__main__":
    pid, status = os.wait()
    sys.exit(f"process {pid} of Ray has ended with {os.waitstatus_to_exitcode(status)}: ending the others")
