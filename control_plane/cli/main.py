"""Entry point."""

import signal
import sys


def main() -> None:
    """Run the command of sys.argv and exit."""
    _main("rayplane")


def plugin() -> None:
    """The same as `kubectl rayplane`, on the cluster that kubectl is talking to."""
    _main("kubectl rayplane")


def _main(program: str) -> None:
    try:
        from rayplane.storage.env.heap import grow_heap

        grow_heap()
        # Takes a second, or three on a busy machine: Ctrl-C may come before there is anything to interrupt.
        from rayplane.control_plane.cli.app import run
        from rayplane.control_plane.cli.options import interrupting

        for number in interrupting()[1:]:  # the first is Python's own already
            signal.signal(number, _interrupt)
    except KeyboardInterrupt:
        print("rayplane: interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(run(sys.argv[1:], program))


def _interrupt(number: int, _: object) -> None:
    if number == signal.SIGHUP:
        # The shell tells it and the system does, and what is ended by the first is not to be broken off by the second.
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
