"""A Kubernetes LeaderWorkerSet of a deployment.

Fields are those of ``leaderworkerset.x-k8s.io/v1`` (kubernetes-sigs/lws @060ab4d,
``api/leaderworkerset/v1/leaderworkerset_types.go``): ``size`` pods per group, ``replicas``
groups; each pod sees ``LWS_LEADER_ADDRESS``, ``LWS_GROUP_SIZE`` and ``LWS_WORKER_INDEX``. The
scheduler chooses hosts: a manifest keeps an instance in one NVLink domain, not ranks on chips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import yaml

from planner.deployment.ranks import Instance
from planner.export.engines.launch import Command, Hardware, needs_shell, quoted

LEADER = "$(LWS_LEADER_ADDRESS)"
INDEX = "$(LWS_WORKER_INDEX)"


class _Dumper(yaml.SafeDumper):
    """Lists inside mappings are indented, as manifests are commonly written."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Never leave the indent out."""
        super().increase_indent(flow, False)


def yaml_text(value: object) -> bytes:
    """Write YAML in the order of the keys; the same value gives the same bytes."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=100)
    return text.encode()


def _container(
    command: Command, image: str, chips: int, hardware: Hardware, *, with_shell: bool
) -> dict[str, Any]:
    words = list(command.words)
    if with_shell:
        # Variables in $(...) are replaced by Kubernetes before the shell sees the line.
        words = ["/bin/sh", "-c", f"exec {quoted(words)}"]
    found: dict[str, Any] = {"name": "engine", "image": image, "command": words}
    if command.env:
        found["env"] = [{"name": name, "value": value} for name, value in command.env]
    found["resources"] = {"limits": {hardware.resource: str(chips)}}
    found["volumeMounts"] = [{"name": "shm", "mountPath": "/dev/shm"}]
    return found


def any_worker(command: Command) -> Command:
    """The line of node 1 as that of any node but the leader's."""
    flags: list[tuple[str, ...]] = []
    for flag in command.flags:
        if flag[0] == "--node-rank":
            flags.append((flag[0], INDEX))
        elif flag[0] == "--data-parallel-start-rank":
            flags.append((flag[0], f"$((LWS_WORKER_INDEX * {flag[1]}))"))
        else:
            flags.append(flag)
    return replace(command, flags=tuple(flags))


def leader_worker_set(
    name: str,
    instances: Sequence[Instance],
    commands: tuple[Command, Command],
    *,
    image: str,
    hardware: Hardware,
    one_domain: bool,
) -> bytes:
    """The manifest.

    Parameters
    ----------
    commands : (Command, Command)
        Of the leader, and of the other nodes; the latter name themselves by
        ``LWS_WORKER_INDEX``.
    one_domain : bool
        Whether every instance lies in one scale-up domain, which the group then must.
    """
    first = instances[0]
    chips = first.node_chips

    def pod(command: Command) -> dict[str, Any]:
        with_shell = needs_shell(command.words)
        container = _container(command, image, chips, hardware, with_shell=with_shell)
        volumes = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
        return {"spec": {"containers": [container], "volumes": volumes}}

    template: dict[str, Any] = {
        "size": len(first.nodes),
        "restartPolicy": "RecreateGroupOnPodRestart",
    }
    if len(first.nodes) > 1:
        template["leaderTemplate"] = pod(commands[0])
        template["workerTemplate"] = pod(commands[1])
    else:
        template["workerTemplate"] = pod(commands[0])
    metadata: dict[str, Any] = {"name": name}
    if one_domain and hardware.domain_label is not None and len(first.nodes) > 1:
        metadata["annotations"] = {
            "leaderworkerset.sigs.k8s.io/exclusive-topology": hardware.domain_label
        }
    return yaml_text(
        {
            "apiVersion": "leaderworkerset.x-k8s.io/v1",
            "kind": "LeaderWorkerSet",
            "metadata": metadata,
            "spec": {"replicas": len(instances), "leaderWorkerTemplate": template},
        }
    )
