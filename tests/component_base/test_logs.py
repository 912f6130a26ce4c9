"""Lines, files and levels of logs; who speaks is told by the task."""

import asyncio
import json
import logging
from pathlib import Path

import pytest

from rayplane.control_plane.component_base import logs
from rayplane.control_plane.component_base.log_settings import JSON, TEXT, level_of

log = logging.getLogger("x")


@pytest.mark.parametrize("form", [TEXT, JSON])
def test_what_a_client_wrote_forges_no_line(tmp_path: Path, form: str) -> None:
    logs.to_files(tmp_path / "x.log", form, logs.Speaker("apiserver", "apiserver-0"))
    log.warning("object %s: %s", "a\n2026-01-01 00:00:00,000 ERROR y: forged\r\u2028", "\x1b[2Jü\t")
    [line] = (tmp_path / "x.log").read_text().splitlines()
    if form == TEXT:
        forged = r"object a\u000a2026-01-01 00:00:00,000 ERROR y: forged\u000d\u2028: \u001b[2Jü\u0009"
        assert line.endswith(f"WARNING apiserver/apiserver-0 x: {forged}")
    else:
        told = json.loads(line)
        assert told["message"] == "object a\n2026-01-01 00:00:00,000 ERROR y: forged\r\u2028: \x1b[2Jü\t"
        assert (told["level"], told["component"], told["instance"]) == ("warning", "apiserver", "apiserver-0")


def test_values_that_a_call_names_are_fields_of_the_line(tmp_path: Path) -> None:
    logs.to_files(tmp_path / "x.log", JSON, logs.Speaker("supervisor", "supervisor"))
    log.warning("%s failed", "node-0", extra={"actor": "node-0", "pause_s": 0.5, "level": "forged", "_ray": 1})
    told = json.loads((tmp_path / "x.log").read_text())
    assert (told["message"], told["level"]) == ("node-0 failed", "warning")
    assert (told["actor"], told["pause_s"]) == ("node-0", 0.5)
    assert told.keys() == {
        *("time", "level", "component", "instance", "logger", "message"),
        *("actor", "pause_s"),
    }


@pytest.mark.parametrize("level", ["info", "debug"])
def test_a_library_that_writes_headers_down_is_not_heard(tmp_path: Path, level: str) -> None:
    logs.to_files(tmp_path / "x.log", speaker=logs.Speaker("member", "member-0"))
    with logs.speaking("member", "member-0"):
        logs.Level().set(level_of(level))
    logging.getLogger("hpack.hpack").debug("Decoded %s", "authorization: Bearer 1")
    assert not (tmp_path / "x.log").exists()


@pytest.mark.parametrize(("form", "lines"), [(TEXT, 4), (JSON, 1)])
def test_a_trace_follows_its_line_or_is_a_field_of_it(tmp_path: Path, form: str, lines: int) -> None:
    logs.to_files(tmp_path / "x.log", form)
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("it failed")
    written = (tmp_path / "x.log").read_text().splitlines()
    assert len(written) >= lines and (
        "trace" in json.loads(written[0]) if form == JSON else written[-1] == "ValueError: why"
    )


def said_in(directory: Path) -> dict[str, list[str]]:
    return {p.name: [line.rpartition(": ")[2] for line in p.read_text().splitlines()] for p in directory.iterdir()}


async def test_components_of_one_process_have_files_and_levels_of_their_own(tmp_path: Path) -> None:
    logs.to_files(tmp_path / "process.log", shared=True)
    told = asyncio.Event()
    levels: dict[str, logs.Level] = {}

    async def work(name: str) -> None:
        log.debug("quiet %s", name)
        await told.wait()
        log.debug("loud %s", name)
        log.info("usual %s", name)

    tasks = []
    for name in ("a-0", "b-0"):
        with logs.speaking(name[0], name):
            levels[name] = logs.Level()
            tasks.append(asyncio.create_task(work(name)))
    await asyncio.sleep(0)
    levels["a-0"].set(level_of("debug"))
    told.set()
    await asyncio.gather(*tasks)
    log.info("nobody's")
    assert (levels["a-0"].get(), levels["b-0"].get()) == ("debug", "info")
    assert said_in(tmp_path) == {
        "a-0.log": ["loud a-0", "usual a-0"],
        "b-0.log": ["usual b-0"],
        "process.log": ["nobody's"],
    }
    levels["a-0"].set(level_of("2"))
    assert not log.isEnabledFor(logging.DEBUG), "what nobody wants costs nothing"


def test_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES_MAX", 1000)
    logs.to_files(tmp_path / "x.log")
    for number in range(100):
        log.info("line %d", number)
    files = sorted(tmp_path.iterdir())
    assert [f.name for f in files] == ["x.log", "x.log.1", "x.log.2"]
    assert all(f.stat().st_size <= 1000 for f in files)


def test_levels_are_names_or_verbosities() -> None:
    assert [level_of(t) for t in (" Debug\n", "info", "0", "4", "10")] == [10, 20, 20, 10, 10]
    for text in ("", "loud", "-1", "9999", "١"):
        with pytest.raises(ValueError, match="is no level"):
            level_of(text)
