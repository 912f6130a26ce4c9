"""The process that runs seeds for a sweep.

    python -m rayplane.control_plane.simulation.worker

Standard input has the order (`sweep.send`), then a seed on each line; each result goes to standard output. When
standard input ends, so does this process, in the midst of a run too: who wanted the results is gone.
"""

import gc
import os
import pickle
import queue
import sys
import threading
from typing import Any

from rayplane.control_plane.simulation.sweep import Order, answer_of, receive, send


def main() -> None:
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anybody prints must not get among them
    orders = sys.stdin.buffer
    try:
        order: Order = pickle.loads(receive(orders))
    except EOFError:
        return  # interrupted before there was anything to do
    seeds: queue.Queue[int] = queue.Queue(maxsize=1)
    threading.Thread(target=_listen, args=(orders, seeds), daemon=True).start()
    while True:
        send(results, answer_of(order, seeds.get()))
        # What is left are modules and what they keep: nothing of it need be looked at again in the runs to come.
        gc.freeze()


def _listen(orders: Any, seeds: "queue.Queue[int]") -> None:
    for line in orders:
        seeds.put(int(line))
    os._exit(0)


if __name__ == "__main__":
    main()
