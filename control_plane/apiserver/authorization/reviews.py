"""Access, rules, subject and token reviews: questions about who is who and who may do what."""

from rayplane.control_plane.api.authorization import selectors
from rayplane.control_plane.api.errors import BadRequest, MethodNotAllowed, Unauthorized
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.authentication.authenticator import NOT_FOR_THEM, Authenticator
from rayplane.control_plane.apiserver.authorization.authorizer import Authorizer
from rayplane.control_plane.apiserver.requests import User


class Reviews:
    """The answers to access reviews. `answer` fills in the status of a review."""

    def __init__(self, authorizer: Authorizer, authenticator: Authenticator) -> None:
        self._authorizer = authorizer
        self._authenticator = authenticator

    async def answer(self, user: User, info: ResourceInfo, namespace: str, o: Object) -> Object:
        spec = o.get("spec") or {}
        o["metadata"] = o.get("metadata") or {}
        match info.plural:
            case "selfsubjectaccessreviews":
                o["status"] = await self._access(user, spec)
            case "subjectaccessreviews" | "localsubjectaccessreviews":
                extra = {key: tuple(values or ()) for key, values in (spec.get("extra") or {}).items()}
                asked = User(
                    spec.get("user") or "", tuple(spec.get("groups") or ()), uid=spec.get("uid") or "", extra=extra
                )
                if info.plural.startswith("local"):
                    given = (spec.get("resourceAttributes") or {}).get("namespace") or ""
                    if given != namespace:
                        raise BadRequest(
                            f'spec.resourceAttributes.namespace "{given}" must match namespace "{namespace}"'
                        )
                o["status"] = await self._access(asked, spec)
            case "selfsubjectrulesreviews":
                o["status"] = await self._rules(user, spec.get("namespace") or "")
                o["spec"] = {}
            case "selfsubjectreviews":
                o["status"] = {"userInfo": user.info}
            case "tokenreviews":
                o["status"] = await self._token(spec)
            case _:
                raise MethodNotAllowed(details={})
        return o

    async def _access(self, user: User, spec: Object) -> Object:
        resource, other = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
        if (resource is None) == (other is None):
            raise BadRequest("exactly one of nonResourceAttributes or resourceAttributes must be specified")
        problems: list[str] = []
        if resource is not None:
            attributes = user.asks(
                resource.get("verb") or "",
                group=resource.get("group") or "",
                resource=resource.get("resource") or "",
                subresource=resource.get("subresource") or "",
                namespace=resource.get("namespace") or "",
                name=resource.get("name") or "",
                version=resource.get("version") or "",
                fields=selectors.read_fields(resource, problems),
                labels=selectors.read_labels(resource, problems),
            )
        else:
            attributes = user.asks((other or {}).get("verb") or "", path=(other or {}).get("path") or "")
        decision = await self._authorizer.decide(attributes)
        status: Object = {"allowed": decision.allowed}
        if decision.denied:
            status["denied"] = True
        if decision.reason:
            status["reason"] = decision.reason
        if problems:
            status["evaluationError"] = "; ".join(problems)
        return status

    async def _rules(self, user: User, namespace: str) -> Object:
        if not namespace:
            raise BadRequest("no namespace on request")
        resources: list[Object] = []
        paths: list[Object] = []
        for rule in await self._authorizer.rules(user, namespace):
            if rule.get("nonResourceURLs"):
                path = {k: rule[k] for k in ("verbs", "nonResourceURLs")}
                if path not in paths:
                    paths.append(path)
            else:
                fields = ("verbs", "apiGroups", "resources", "resourceNames")
                resource = {k: rule[k] for k in fields if k in rule}
                if resource not in resources:
                    resources.append(resource)
        answer: Object = {"resourceRules": resources, "nonResourceRules": paths, "incomplete": False}
        others = [*(["node"] if user.nodes is not None else []), *(["webhook"] if self._authorizer.asks_others else [])]
        if others:
            answer["incomplete"] = True
            texts = [f"{one} authorizer does not support user rule resolution" for one in others]
            answer["evaluationError"] = ", ".join(texts)
        return answer

    async def _token(self, spec: Object) -> Object:
        token = spec.get("token")
        if not token:
            raise BadRequest("token is required for TokenReview in authentication")
        asked = spec.get("audiences") or self._authenticator.audiences
        try:
            found = await self._authenticator.identify(token, asked)
        except Unauthorized as e:
            why = e.message if e.message == NOT_FOR_THEM else "token lookup failed: the token is invalid or has expired"
            return {"user": {}, "error": why}
        return {"authenticated": True, "user": found.user.info, "audiences": [*found.audiences]}
