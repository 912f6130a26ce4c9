"""Entry point."""

import sys


def main() -> None:
    """Run the command of sys.argv and exit."""
    _main("rayplane")


def plugin() -> None:
    """The same as `kubectl rayplane`, on the cluster that kubectl is talking to."""
    _main("kubectl rayplane")


def plugin_completion() -> None:
    """What kubectl runs for a TAB behind `kubectl rayplane`, with the words that were typed; the last may be empty.

    It reads a candidate a line, and a number that says what the shell is to do: cobra's protocol.
    """
    from rayplane.storage.process import grow_heap

    grow_heap()
    from rayplane.control_plane.cli.app import completed

    print("\n".join(completed(sys.argv[1:])))


def _main(program: str) -> None:
    try:
        from rayplane.storage.process import grow_heap

        grow_heap()
        # Takes a while on a busy machine: Ctrl-C may come before there is anything to interrupt.
        from rayplane.control_plane.cli.app import run
        from rayplane.control_plane.cli.interrupts import heed

        heed()
    except KeyboardInterrupt:
        print("rayplane: interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(run(sys.argv[1:], program))


if __name__ == "__main__":
    main()
