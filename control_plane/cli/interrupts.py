"""Signals that interrupt a command, and its exit code then."""

import signal

EXIT_INTERRUPTED = 130


def interrupting() -> tuple[signal.Signals, ...]:
    """Signals that interrupt a command: the end of its terminal, too, unless nohup or a shell said not to heed it."""
    ends = (signal.SIGINT, signal.SIGTERM)
    return ends if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (*ends, signal.SIGHUP)
