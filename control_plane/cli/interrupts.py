"""Signals that interrupt a command, and its exit code then."""

import signal

EXIT_INTERRUPTED = 130


def interrupting() -> tuple[signal.Signals, ...]:
    """Signals that interrupt a command: the end of its terminal, too, unless nohup or a shell said not to heed it."""
    ends = (signal.SIGINT, signal.SIGTERM)
    return ends if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (*ends, signal.SIGHUP)


def heed() -> None:
    """Have each of them do in this process what Ctrl-C does."""
    for number in interrupting()[1:]:  # the first is Python's own already
        signal.signal(number, _interrupt)


def _interrupt(number: int, _: object) -> None:
    if number == signal.SIGHUP:
        # The shell tells it and the system does, and what is ended by the first is not to be broken off by the second.
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
