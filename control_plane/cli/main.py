"""Entry point."""

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
    except KeyboardInterrupt:
        print("rayplane: interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(run(sys.argv[1:], program))


if __name__ == "__main__":
    main()
