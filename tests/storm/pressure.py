"""Others who want every core: busy loops that end by themselves, whatever becomes of who started them."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

_LOOP = "import sys, time\nend = time.monotonic() + float(sys.argv[1])\nwhile time.monotonic() < end: pass"


@contextlib.contextmanager
def pressure(loops: int, seconds_max: float) -> Iterator[None]:
    """So many busy loops, for at most so long."""
    made = [subprocess.Popen([sys.executable, "-S", "-c", _LOOP, str(seconds_max)]) for _ in range(loops)]
    try:
        yield
    finally:
        for one in made:
            one.kill()
            one.wait()
