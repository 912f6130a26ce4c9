"""The verdict as one HTML page that needs nothing else: tables and a timeline. Pure."""

from collections.abc import Iterable, Sequence
from html import escape

from rayplane.control_plane.cluster.trial.verdict import NEVER_THERE, Track, Verdict, felt, held

WIDTH, LEFT, ROW = 1100, 190, 24
_TICKS = 10
_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2em; color: #222; max-width: 1150px }
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin-top: 2em }
table { border-collapse: collapse }
td, th { text-align: left; padding: .2em .8em .2em 0; border-bottom: 1px solid #ddd }
.ok { color: #176b2c } .bad { color: #b3261e } svg text { font: 12px system-ui, sans-serif; fill: #333 }
"""
_OF_FAULTS = ("fault", "hit", "at", "detected after", "recovered after", "reads away", "writes away", "pods elsewhere")
_FAULT, _AWAY, _ILL = "#7b4fb5", "#d9822b", "#b3261e"

Bar = tuple[float, float, str, str]
"""From, to, colour, what it is."""


def page(verdict: Verdict) -> str:
    """The whole page."""
    said = '<span class="ok">ok</span>' if verdict.ok else '<span class="bad">failed</span>'
    head = f"{escape(verdict.scenario)}, seed {verdict.seed}, cluster {escape(verdict.cluster)}"
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(verdict.scenario)}</title>",
        f"<style>{_STYLE}</style><h1>{said}: {head}</h1>",
        "".join(f'<p class="bad">{escape(error)}</p>' for error in verdict.failed),
        f"<h2>Timeline</h2>{timeline(verdict)}",
        "<h2>What must hold</h2>",
        _table(("invariant", "held"), _invariants(verdict)),
        "<h2>Faults</h2>",
        _table(_OF_FAULTS, _faults(verdict)),
        "<h2>What clients had of it</h2>",
        _table(("what", "available", "longest gap", "p50", "p95", "failed"), map(_track, verdict.tracks)),
        "<h2>What was expected</h2>",
        _table(("what", "so"), ((what, wrong or "yes") for what, wrong in verdict.expected)),
        "<h2>Events</h2>",
        _table(("at", "what"), ((f"{at_s:.2f} s", text) for at_s, text in verdict.events)),
        "</html>",
    ]
    return "\n".join(parts)


def _invariants(verdict: Verdict) -> Iterable[Sequence[str]]:
    return ((name, "; ".join(found) or held(verdict, name)) for name, found in verdict.invariants.items())


def _faults(verdict: Verdict) -> Iterable[Sequence[str]]:
    for one in verdict.faults:
        yield one.text, ", ".join(one.hit), f"{one.began_s:.1f}s", *felt(one)


def _track(track: Track) -> Sequence[str]:
    failed = f"{track.failed} of {track.asked}"
    if track.never:
        return track.what, NEVER_THERE, "", "", "", failed
    spans = (track.longest_s, track.within(0.5), track.within(0.95))
    return track.what, f"{track.percent:.2f} %", *(f"{s:.3f} s" for s in spans), failed


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return "<table><tr>" + "".join(f"<th>{escape(name)}</th>" for name in head) + f"</tr>{body}</table>"


def timeline(verdict: Verdict) -> str:
    """An SVG: a row for what was wrong, one for each client, one for each fault."""
    end_s = max([verdict.seconds, 1.0, *(one.began_s for one in verdict.faults)])
    rows: list[tuple[str, list[Bar]]] = [
        ("cluster unhealthy", [(a, b, _ILL, "unhealthy") for a, b in verdict.unhealthy]),
        *((f"{t.what} away", [(a, b, _AWAY, f"no {t.what}") for a, b in t.gaps]) for t in verdict.tracks),
    ]
    for one in verdict.faults:
        rows.append((one.text, [(one.began_s, one.ended_s or end_s, _FAULT, f"{one.text} {', '.join(one.hit)}")]))
    height = ROW * (len(rows) + 1)
    scale = (WIDTH - LEFT) / end_s
    lines = [f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">']
    for tick in range(_TICKS + 1):
        x = LEFT + (WIDTH - LEFT - 30) * tick / _TICKS
        at_s = end_s * (x - LEFT) / (WIDTH - LEFT)
        lines.append(f'<line x1="{x:.0f}" x2="{x:.0f}" y1="0" y2="{height - ROW}" stroke="#eee"/>')
        lines.append(f'<text x="{x:.0f}" y="{height - 6}">{at_s:.0f} s</text>')
    for number, (name, bars) in enumerate(rows):
        y = number * ROW
        lines.append(f'<text x="0" y="{y + 16}">{escape(name[:30])}</text>')
        for from_s, to_s, colour, what in bars:
            x, width = LEFT + from_s * scale, max(2.0, (to_s - from_s) * scale)
            lines.append(
                f'<rect x="{x:.1f}" y="{y + 4}" width="{width:.1f}" height="{ROW - 8}" fill="{colour}">'
                f"<title>{escape(what)}: {from_s:.1f} to {to_s:.1f} s</title></rect>"
            )
    return "\n".join([*lines, "</svg>"])
