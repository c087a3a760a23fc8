"""Launch lines: what is typed on which host, as text that a shell reads."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from planner.deployment.ranks import Instance, Node

WIDTH = 100
HEAD_PORT = 20000


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """One command line with its environment, for one node.

    Parameters
    ----------
    flags : tuple of tuple of str
        Words that belong together, such as a flag and its value.
    """

    env: tuple[tuple[str, str], ...] = ()
    program: tuple[str, ...]
    flags: tuple[tuple[str, ...], ...]

    @property
    def words(self) -> tuple[str, ...]:
        """All words without the environment."""
        return (*self.program, *(word for flag in self.flags for word in flag))


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeCommand:
    """A command and the node that it belongs to."""

    instance: int
    index: int
    node: Node
    command: Command


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """How chips of one maker are chosen by processes and by Kubernetes."""

    visible: str
    resource: str
    domain_label: str | None = None


NVIDIA = Hardware(
    visible="CUDA_VISIBLE_DEVICES", resource="nvidia.com/gpu", domain_label="nvidia.com/gpu.clique"
)
_MAKERS = (
    ("mi", Hardware(visible="HIP_VISIBLE_DEVICES", resource="amd.com/gpu")),
    ("gaudi", Hardware(visible="HABANA_VISIBLE_MODULES", resource="habana.ai/gaudi")),
    ("tpu", Hardware(visible="TPU_VISIBLE_CHIPS", resource="google.com/tpu")),
    ("trainium", Hardware(visible="NEURON_RT_VISIBLE_CORES", resource="aws.amazon.com/neuron")),
)


def hardware_of(chip: str) -> Hardware:
    """Names by the kind of chip."""
    name = chip.lower()
    return next((found for start, found in _MAKERS if name.startswith(start)), NVIDIA)


def device_env(node: Node, host_chips: int, hardware: Hardware) -> tuple[tuple[str, str], ...]:
    """Which devices a process sees; nothing where it takes all of the host in order."""
    if node.devices == tuple(range(host_chips)):
        return ()
    return ((hardware.visible, ",".join(str(device) for device in node.devices)),)


def with_env(command: Command, env: tuple[tuple[str, str], ...]) -> Command:
    """The same command with more in its environment."""
    return replace(command, env=(*env, *command.env))


# Words that stay open to a shell: variables of the user, sums, and what Kubernetes fills in.
_VARIABLE = r"(model_name=)?\$(MODEL|MODEL_ARGS|MODULE|CONFIG)|\$\(\(LWS_WORKER_INDEX \* \d+\)\)"
_SHELL = re.compile(_VARIABLE)
_OPEN = re.compile(_VARIABLE + r"|\$\(LWS_[A-Z_]+\)(:\d+)?")


def needs_shell(words: Sequence[str]) -> bool:
    """Whether a shell must fill something in."""
    return any(_SHELL.fullmatch(word) for word in words)


def quoted(words: Sequence[str]) -> str:
    """Words for a shell; nothing in them is expanded but the variables that are meant to be."""
    return " ".join(word if _OPEN.fullmatch(word) else shlex.quote(word) for word in words)


def shell(command: Command) -> str:
    """One command over several lines, words that belong together on one."""
    env = [f"{name}={shlex.quote(value)}" for name, value in command.env]
    parts = [quoted(command.program)] + [quoted(flag) for flag in command.flags]
    lines, line = [], " ".join([*env, parts[0]])
    for part in parts[1:]:
        if len(line) + len(part) + 3 > WIDTH:
            lines.append(line)
            line = "  " + part
        else:
            line += " " + part
    return " \\\n".join([*lines, line])


def launch_text(
    title: Sequence[str], commands: Iterable[NodeCommand], instances: Sequence[Instance]
) -> bytes:
    """The script of launch lines: comments, then one command per node."""
    # A name with a line break must not end the comment.
    out = ["#!/bin/sh", *(f"# {' '.join(line.split())}" for line in title)]
    for one in commands:
        nodes = len(instances[one.instance].nodes)
        where = f"instance {one.instance}, node {one.index} of {nodes}"
        devices = ",".join(str(device) for device in one.node.devices)
        out += ["", f"# {where}: host {one.node.host}, devices {devices}", shell(one.command)]
    return ("\n".join(out) + "\n").encode()
