"""`rayplane logs-of` on the machine where the log is."""

from pathlib import Path

import pytest

from rayplane.control_plane.cli import logs_of
from rayplane.control_plane.component_base.log_pages import LogQuery


def test_the_end_of_a_log_is_printed(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    path = tmp_path / "a-0.log"
    path.with_name("a-0.log.1").write_bytes(b"1\n2\n")
    path.write_bytes(b"3\n")
    logs_of._print_local(path, LogQuery("a-0", 2))
    logs_of._print_local(path, LogQuery("a-0"))
    assert capfdbinary.readouterr().out == b"2\n3\n1\n2\n3\n"


def test_a_log_that_is_followed_is_printed_as_it_grows(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a-0.log"
    path.write_bytes(b"1\n")
    pauses = iter([b"2\n", b"3\n"])

    def pause(_: float) -> None:
        added = next(pauses, None)
        if added is None:
            raise KeyboardInterrupt
        with path.open("ab") as file:
            file.write(added)

    monkeypatch.setattr(logs_of.time, "sleep", pause)
    with pytest.raises(KeyboardInterrupt):
        logs_of._print_local(path, LogQuery("a-0", 0, True))
    assert capfdbinary.readouterr().out == b"2\n3\n"


@pytest.mark.parametrize(("address", "here"), [("127.0.0.1", True), ("192.0.2.1", False)])
def test_which_addresses_are_of_this_machine(address: str, here: bool) -> None:
    assert logs_of._is_here(address) is here
