"""The player: the door of a recording, which is shown as the past of a cluster is, without any cluster.

An instant of it is asked for by its place on the slider, in milliseconds.
"""

from collections.abc import Mapping
from math import ceil
from typing import Any

from aiohttp import web

from rayplane.control_plane.api.errors import BadRequest, Forbidden, MethodNotAllowed, NotFound
from rayplane.control_plane.api.meta import format_micro_time
from rayplane.control_plane.api.packing import packed
from rayplane.control_plane.apiserver.rest import paths
from rayplane.control_plane.apiserver.rest.presentation import negotiate
from rayplane.control_plane.dashboard.door import VIEWS, Door, answer, asked
from rayplane.control_plane.dashboard.recorded import RecordedApi
from rayplane.control_plane.recordings import Moment, Recording
from rayplane.control_plane.rpc.static_files import HEADERS

AT = "/recording/"


class Player(Door):
    """The player of one recording."""

    def __init__(self, recording: Recording) -> None:
        super().__init__(at=AT)
        self._recording = recording
        self._recorded = RecordedApi(recording)
        self._routes = {
            ("GET", f"{VIEWS}recording"): self._told,
            ("GET", f"{VIEWS}history"): self._history,
            ("GET", f"{VIEWS}changes"): self._changes,
            ("GET", f"{VIEWS}packing"): self._packed,
            ("GET", f"{VIEWS}control-plane"): self._control_plane,
        }

    async def _api(self, request: web.BaseRequest, token: str) -> web.StreamResponse:
        if token:
            raise Forbidden("a recording takes the key that `rayplane dashboard --open` printed")
        if request.method != "GET":
            raise MethodNotAllowed(details={})
        if request.path == "/version":
            return answer({})
        found, accept = paths.parse(request.path), request.headers.get("Accept", "")
        if found is None:
            document = self._recorded.discovery(request.path, accept)
            return web.Response(body=document.body, headers=HEADERS | {"Content-Type": document.content_type})
        if found.name or found.watch or "watch" in request.query:
            raise NotFound("a recording has lists; ask for one object by fieldSelector=metadata.name=NAME")
        moment, info = self._moment(request.query), self._recorded.named(found.group, found.version, found.plural)
        objs = self._recorded.selected(info, moment, found.namespace, request.query)
        if negotiate(accept).form == "table":
            return answer(self._recorded.table(info, objs, moment))
        head = {"kind": info.list_kind, "apiVersion": info.api_version}
        return answer({**head, "metadata": {"resourceVersion": str(moment.revision)}, "items": objs})

    async def _told(self, _: web.BaseRequest) -> web.StreamResponse:
        of = self._recording
        marks = [
            {
                "kind": mark.kind,
                "text": mark.text,
                "invariant": mark.invariant,
                "from": _place(mark.from_s),
                "until": _place(of.end_s if mark.until_s is None else mark.until_s),
            }
            for mark in of.marks
        ]
        held = [{"name": one.name, "seen": one.seen, "wrong": one.wrong} for one in of.invariants]
        verdict = {"ok": of.ok, "marks": marks, "invariants": held, "failures": of.failures}
        head = {"of": of.of, "name": of.name, "seed": of.seed, "cluster": of.cluster}
        events = [{"position": _place(at_s), "text": text} for at_s, text in of.events]
        full = None if of.full_s is None else _place(of.full_s)
        return answer({**head, **verdict, "events": events, "full": full})

    async def _history(self, request: web.BaseRequest) -> web.StreamResponse:
        of = self._recording
        ends = {"oldest": of.moment(0.0), "newest": of.moment(of.end_s)}
        return answer({name: self._shown(at) for name, at in {**ends, "at": self._moment(request.query)}.items()})

    async def _changes(self, request: web.BaseRequest) -> web.StreamResponse:
        old, new = (self._of(asked(request, name)) for name in ("from", "to"))
        found = self._recorded.changes(old, new, request.query.get("namespace", ""))
        span = {"from": self._shown(old), "to": self._shown(new)}
        return answer({**span, "changes": [one.to_json() for one in found], "unread": []})

    async def _packed(self, request: web.BaseRequest) -> web.StreamResponse:
        moment = self._moment(request.query)
        return answer(packed(*(self._recorded.objects(name, moment) for name in ("nodes", "pods"))))

    async def _control_plane(self, request: web.BaseRequest) -> web.StreamResponse:
        return answer({"name": self._recording.name, "error": "", **self._recording.state(self._moment(request.query))})

    def _moment(self, query: Mapping[str, str]) -> Moment:
        return self._of(query["at"]) if "at" in query else self._recording.moment(self._recording.end_s)

    def _of(self, place: str) -> Moment:
        if not (place.isascii() and place.isdigit() and len(place) < 15):
            raise BadRequest(f"{place!r:.40} is no instant of the recording: use milliseconds")
        return self._recording.moment(int(place) / 1000)

    def _shown(self, moment: Moment) -> dict[str, Any]:
        time = format_micro_time(self._recording.time(moment))
        return {"revision": moment.revision, "time": time, "position": _place(moment.at_s)}


def _place(at_s: float) -> int:
    """The first place on the slider at which what happened then is seen."""
    return ceil(at_s * 1000)
