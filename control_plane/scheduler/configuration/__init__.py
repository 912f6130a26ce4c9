"""KubeSchedulerConfiguration, the file that kube-scheduler is configured by, read as it is. Pure.

Owns: what the file may say and what it means here: `schema` (its fields and types), `points` (which plug-ins a profile
asks, at which extension points), `arguments` (of each plug-in), `extenders` and `document` (`read_configuration`).

Does not own what plug-ins do.

Source: kubescheduler.config.k8s.io/v1, and kube-scheduler's rules for it.
"""

from rayplane.control_plane.scheduler.configuration.document import Configuration, read_configuration

__all__ = ["Configuration", "read_configuration"]
