"""TokenRequest (authentication.k8s.io/v1): a token for a service account, bound to a Pod, Secret or Node if asked."""

import orjson

from rayplane.control_plane.api.errors import BadRequest, Conflict, Invalid, NotFound, invalid
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver import audit
from rayplane.control_plane.apiserver.authentication.tokens import Bound, Tokens
from rayplane.control_plane.apiserver.config import ApiServerConfig
from rayplane.control_plane.apiserver.registry.reading import Reader
from rayplane.control_plane.apiserver.requests import Answer, Target
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup
from rayplane.storage.env import Env

_ISSUED = "authentication.kubernetes.io/issued-credential-id"
_SECONDS_MIN, _SECONDS_USUAL, _SECONDS_MAX = 600, 3600, 1 << 32
_BINDABLE = {"Pod": "pods", "Secret": "secrets", "Node": "nodes"}


class TokenRequests:
    """The answers to token requests. `answer` issues what one asks for. Authorisation and admission were before."""

    def __init__(self, config: ApiServerConfig, env: Env, *, reader: Reader, lookup: Lookup, tokens: Tokens) -> None:
        self._config = config
        self._env = env
        self._reader = reader
        self._lookup = lookup
        self._tokens = tokens

    async def answer(self, target: Target, request: Object) -> Answer:
        """The request with its status. Invalid, BadRequest, Conflict, NotFound."""
        account = (await self._reader.get(Target(target.info, target.namespace, target.name))).object
        spec = request.setdefault("spec", {})
        seconds, warnings = self._seconds(spec)
        audiences = spec.get("audiences") or [self._config.issuer]
        bound = await self._bound(target, spec.get("boundObjectRef") or {})
        issued = self._tokens.issue(account, audiences=audiences, seconds=seconds, bound=bound)
        audit.annotate({_ISSUED: issued.credential})
        spec["audiences"], spec["expirationSeconds"] = audiences, seconds
        request["metadata"] = {
            "name": target.name,
            "namespace": target.namespace,
            "creationTimestamp": self._env.timestamp(),
        }
        request["status"] = {"token": issued.token, "expirationTimestamp": issued.renewed}
        return Answer(orjson.dumps(request), created=True, warnings=warnings)

    def _seconds(self, spec: Object) -> tuple[int, list[str]]:
        """How long the token lives, and what to warn of."""
        given = spec.get("expirationSeconds")
        seconds = _SECONDS_USUAL if given is None else int(given)
        if not _SECONDS_MIN <= seconds <= _SECONDS_MAX:
            cause = (
                "may not specify a duration less than 10 minutes"
                if seconds < _SECONDS_MIN
                else "may not specify a duration larger than 2^32 seconds"
            )
            errors = [invalid("spec.expirationSeconds", seconds, cause)]
            raise Invalid.of("TokenRequest", "", errors, group="authentication.k8s.io")
        most = self._config.token_seconds_max
        if seconds <= most:
            return seconds, []
        return most, [f"requested expiration of {seconds} seconds shortened to {most} seconds"]

    async def _bound(self, target: Target, ref: Object) -> Bound | None:
        if not ref:
            return None
        kind, version, name = ref.get("kind") or "", ref.get("apiVersion") or "", ref.get("name") or ""
        if kind not in _BINDABLE or version != "v1":
            group = version if "/" in version else f"/{version}"
            raise BadRequest(f"cannot bind token to object of type {group}, Kind={kind}")
        found = await self._lookup.get(_BINDABLE[kind], name, "" if kind == "Node" else target.namespace)
        if found is None:
            raise NotFound.of(_BINDABLE[kind], name)
        if kind == "Pod" and (found["spec"].get("serviceAccountName") or "") != target.name:
            text = "to pod running with different serviceaccount name."
            raise BadRequest(f'cannot bind token for serviceaccount "{target.name}" {text}')
        if ref.get("uid") and ref["uid"] != found["metadata"]["uid"]:
            text = (
                f"the UID in the bound object reference ({ref['uid']}) does not match the UID in record. "
                "The object might have been deleted and then recreated"
            )
            raise Conflict(f'Operation cannot be fulfilled on {kind} "{name}": {text}', details={})
        if kind == "Pod":
            return Bound(pod=found, node=await self._node_of(found))
        return Bound(secret=found) if kind == "Secret" else Bound(node=found)

    async def _node_of(self, pod: Object) -> Object | None:
        name = pod["spec"].get("nodeName")
        if not name:
            return None
        return await self._lookup.get("nodes", name) or {"metadata": {"name": name}}
