"""Transcripts: scripts of what happens to a group, with what it does in answer, in tests/raft/testdata/*.txt.

A file is a list of blocks: one line of command, `----`, the output, an empty line. Commands (`N` is a member's id):

    group SIZE [learners=3] [founders=log] [pre_vote=false] ...   starts anew; other words are fields of Config
    campaign N | propose N DATA... | read N CONTEXT | transfer N TO | tick N [TIMES]
    forget N ID                                   N learns that ID's process is gone
    unreachable N ID                              N's transport could not send to ID
    progress N                                    how N, which leads, feeds each member
    add N ID | learner N ID | remove N ID         membership changes, asked of N
    ready N                                       one turn of N's driver, shown
    deliver [to=N] [from=N] [drop=true]           everything on the network at this moment, shown
    settle                                        all drivers and the network until nothing moves; shows the result
    cut N... | heal | crash N | restart N | compact N | join N | status
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rayplane.control_plane.etcd.raft import (
    ConfChange,
    ConfChangeType,
    Entry,
    EntryType,
    Message,
    PeerProgress,
    RaftError,
    Ready,
)
from tests.raft.harness import Group

CHANGES = {
    "add": ConfChangeType.ADD_NODE,
    "learner": ConfChangeType.ADD_LEARNER,
    "remove": ConfChangeType.REMOVE_NODE,
}


def show_entry(entry: Entry) -> str:
    if entry.type is EntryType.CONF_CHANGE:
        change = ConfChange.decode(entry.data)
        return f"{entry.term}/{entry.index} {change.type.name} {change.node_id}"
    return f"{entry.term}/{entry.index} {entry.data.decode() or '-'}"


def show_message(message: Message) -> str:
    parts = [f"{message.from_}->{message.to} {message.type.name} term={message.term}"]
    for name in ("log_term", "index", "commit", "reject", "reject_hint"):
        if value := getattr(message, name):
            parts.append(f"{name}={value}")
    if message.context:
        shown = message.context.decode() if message.context.isascii() and message.context.isalnum() else "round"
        parts.append(f"context={shown}")
    if message.entries:
        parts.append("[" + ", ".join(map(show_entry, message.entries)) + "]")
    if message.snapshot:
        parts.append(f"snapshot={message.snapshot.term}/{message.snapshot.index}")
    return " ".join(parts)


def show_progress(id_: int, progress: PeerProgress) -> str:
    parts = [f"{id_} {progress.state.value} match={progress.match} next={progress.next}"]
    for name in ("inflight", "inflight_bytes", "pending_snapshot"):
        if value := getattr(progress, name):
            parts.append(f"{name}={value}")
    parts.extend(name for name in ("recent_active", "is_learner") if getattr(progress, name))
    return " ".join(parts)


def show_ready(ready: Ready) -> Iterator[str]:
    if ready.soft_state:
        yield f"soft {ready.soft_state.role.value} lead={ready.soft_state.lead}"
    if ready.hard_state:
        hard = ready.hard_state
        yield f"hard term={hard.term} vote={hard.vote} commit={hard.commit}"
    if ready.snapshot:
        yield f"snapshot {ready.snapshot.term}/{ready.snapshot.index}"
    for title, entries in (("persist", ready.entries), ("apply", ready.committed_entries)):
        for entry in entries:
            yield f"{title} {show_entry(entry)}"
    for read in ready.read_states:
        yield f"read {read.context.decode()} at {read.index}"
    for title, messages in (("now", ready.messages), ("after", ready.messages_after_append)):
        for message in messages:
            yield f"{title} {show_message(message)}"
    yield f"sync={str(ready.must_sync).lower()}"


class Script:
    """The interpreter of one transcript file."""

    def __init__(self) -> None:
        self.group = Group(1)

    def run(self, command: str) -> str:
        name, *words = command.split()
        options = dict(word.split("=", 1) for word in words if "=" in word)
        plain = [word for word in words if "=" not in word]
        try:
            lines = getattr(self, f"do_{name}", self.do_ask)(name, plain, options)
        except RaftError as error:
            return f"{type(error).__name__}: {error}"
        return "\n".join(lines or ["ok"])

    def do_group(self, _name: str, plain: list[str], options: dict[str, str]) -> list[str]:
        learners = [int(i) for i in options.pop("learners", "").split(",") if i]
        through_log = options.pop("founders", "") == "log"
        config = {key: value == "true" if value in ("true", "false") else int(value) for key, value in options.items()}
        self.group = Group(int(plain[0]), learners=learners, **config)
        if through_log:
            self.group.found_through_log()
        return []

    def do_ask(self, name: str, plain: list[str], _options: dict[str, str]) -> list[str]:
        member = self.group.members[int(plain[0])]
        about_others = {"transfer": member.node.transfer_leader, "unreachable": member.node.report_unreachable}
        fates = {"crash": member.crash, "restart": member.start, "compact": member.compact}
        if name == "campaign":
            return [] if member.node.campaign() else ["may not"]
        if name == "propose":
            for data in plain[1:]:
                member.node.propose(data.encode())
        elif name == "read":
            self.group.read(member.id, plain[1].encode())
        elif name == "forget":
            return [] if member.node.forget_leader(int(plain[1])) else ["does not follow it"]
        elif name == "progress":
            return [show_progress(id_, progress) for id_, progress in member.node.status().progress.items()]
        elif name == "tick":
            for _ in range(int(plain[1]) if len(plain) > 1 else 1):
                member.node.tick()
        elif name in CHANGES:
            member.node.propose_conf_change(ConfChange(CHANGES[name], int(plain[1])))
        elif name in about_others:
            about_others[name](int(plain[1]))
        elif name in fates:
            fates[name]()
        else:
            raise ValueError(f"unknown command {name}")
        return []

    def do_join(self, _name: str, plain: list[str], _options: dict[str, str]) -> list[str]:
        self.group.join(int(plain[0]))
        return []

    def do_ready(self, _name: str, plain: list[str], _options: dict[str, str]) -> list[str]:
        ready = self.group.members[int(plain[0])].process()
        return list(show_ready(ready)) if ready else ["nothing"]

    def do_deliver(self, _name: str, _plain: list[str], options: dict[str, str]) -> list[str]:
        chosen: list[Message] = []
        kept: list[Message] = []
        for message in self.group.network:
            matches = options.get("to", str(message.to)) == str(message.to)
            matches = matches and options.get("from", str(message.from_)) == str(message.from_)
            (chosen if matches else kept).append(message)
        self.group.network = kept
        lines = []
        for message in chosen:
            arrived = "drop" not in options and self.group.deliver(message)
            lines.append(show_message(message) + ("" if arrived else " (lost)"))
        return lines or ["nothing"]

    def do_settle(self, _name: str, _plain: list[str], _options: dict[str, str]) -> list[str]:
        self.group.settle()
        return self.do_status("", [], {})

    def do_cut(self, _name: str, plain: list[str], _options: dict[str, str]) -> list[str]:
        self.group.isolate(*map(int, plain))
        return []

    def do_heal(self, _name: str, _plain: list[str], _options: dict[str, str]) -> list[str]:
        self.group.heal()
        return []

    def do_status(self, _name: str, _plain: list[str], _options: dict[str, str]) -> list[str]:
        lines = []
        for member in self.group.members.values():
            status = member.node.status()
            if not member.alive:
                lines.append(f"{member.id} crashed")
                continue
            applied = ",".join(data.decode() for data in member.applied)
            conf = f" voters={status.conf_state.voters} learners={status.conf_state.learners}"
            lines.append(
                f"{member.id} {status.role.value} lead={status.lead} term={status.term} commit={status.commit} "
                f"last={status.last_index} applied=[{applied}]{conf}"
            )
        return lines


def rerun(path: Path) -> tuple[str, str]:
    """The file as it is, and as it would be if what happens now were right."""
    text = path.read_text()
    head, blocks = [], []
    script = Script()
    for block in text.strip().split("\n\n"):
        lines = block.split("\n")
        while lines and lines[0].startswith("#"):
            head.append(lines.pop(0))
        if lines:
            blocks.append("\n".join([*head, lines[0], "----", script.run(lines[0])]))
            head = []
    return text, "\n\n".join(blocks) + "\n"
