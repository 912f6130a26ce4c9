"""Logs of actors: what clients write becomes no line of its own."""

import logging
from pathlib import Path

from rayplane.control_plane.cluster import outside


def test_what_a_client_wrote_forges_no_line(tmp_path: Path) -> None:
    root = logging.getLogger()
    before, level = root.handlers, root.level
    try:
        outside.log_to(str(tmp_path / "x.log"))
        log = logging.getLogger("x")
        log.warning("object %s: %s", "a\n2026-01-01 00:00:00,000 ERROR y: forged\r\u2028", "\x1b[2Jü\t")
        try:
            raise ValueError("why")
        except ValueError:
            log.exception("it failed\n")
        root.handlers[0].close()
    finally:
        root.handlers, root.level = before, level
    lines = (tmp_path / "x.log").read_text().splitlines()
    assert lines[0].endswith(
        r"WARNING x: object a\u000a2026-01-01 00:00:00,000 ERROR y: forged\u000d\u2028: \u001b[2Jü\u0009"
    )
    assert lines[1].endswith(r"ERROR x: it failed\u000a")
    assert (lines[2], lines[-1]) == ("Traceback (most recent call last):", "ValueError: why")
