"""Entry point."""

import sys


def main() -> None:
    """Run the command of sys.argv and exit."""
    try:
        # Takes a second, or three on a busy machine: Ctrl-C may come before there is anything to interrupt.
        from rayplane.control_plane.cli.app import run
    except KeyboardInterrupt:
        print("rayplane: interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
