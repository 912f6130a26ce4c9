"""Errors of a node host: what it refuses, and the code with which its services answer."""

from rayplane.storage.errors import Code


class NodeError(Exception):
    """A node host refuses or fails; the message says what to do or whom to ask."""

    code: Code = Code.INTERNAL


class ConfigError(NodeError):
    """A node host cannot run with this configuration."""

    code = Code.INVALID_ARGUMENT


class LifecycleError(NodeError):
    """An event reached the pod life cycle in a state where it cannot happen: a bug of the caller."""


class Malformed(NodeError):
    """The caller's request makes no sense; the message says which part."""

    code = Code.INVALID_ARGUMENT


class NotHere(NodeError):
    """The pod or container asked for does not run on this host."""

    code = Code.NOT_FOUND


class NotRunning(NodeError):
    """The container exists, but does not run now."""

    code = Code.FAILED_PRECONDITION


class ConnectFailed(NodeError):
    """Nobody listens on that port of the pod."""

    code = Code.UNAVAILABLE


class TooMany(NodeError):
    """The limit of a pod, or of the node host, is reached."""

    code = Code.RESOURCE_EXHAUSTED


class TimedOut(NodeError):
    """The thing asked for took too long, and may still come."""

    code = Code.DEADLINE_EXCEEDED


class Unsupported(NodeError):
    """The container's runtime cannot do this."""

    code = Code.UNIMPLEMENTED


class ContainerConfigError(NodeError):
    """The container refers to something that is missing or wrong. `reason` is that of the waiting state."""

    reason = "CreateContainerConfigError"


class ContainerCreateError(ContainerConfigError):
    """The container asks for what no process can have."""

    reason = "CreateContainerError"


class MountError(NodeError):
    """A volume of the pod cannot be set up now; the message names it. `reason`: of the Event that tells it."""

    reason = "FailedMount"


class DeviceError(MountError):
    """A block device cannot be given to the pod; the message names its volume."""

    reason = "FailedMapVolume"


class SourceUnavailable(NodeError):
    """The API did not answer for an object that a pod refers to; it may well exist."""

    code = Code.UNAVAILABLE


class RuntimeFailed(NodeError):
    """The runtime could not start the container's program, or could not carry out what was asked of it."""


class RuntimeAway(RuntimeFailed):
    """The container runtime at a socket does not answer, or not in time: see that it runs."""

    code = Code.UNAVAILABLE


class RuntimeUnfit(RuntimeFailed):
    """The container runtime at a socket lacks what a node needs of it: use another, or a newer one."""

    code = Code.UNIMPLEMENTED


class SandboxError(NodeError):
    """The pod's network cannot be made now."""


class AddressesExhausted(NodeError):
    """Every address of the node's pod CIDR is in use: run fewer pods on it, or give it a larger CIDR."""


class TooManyTokens(NodeError):
    """There is no place to ask about another token at a kubelet's port: come again."""

    code = Code.RESOURCE_EXHAUSTED
