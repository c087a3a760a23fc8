"""Where ranks run: host files, rank files, and names of hosts that the user gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from planner.deployment.ranks import Instance, host_of
from planner.errors import SpecError


def hostfile(instance: Instance) -> bytes:
    """One host per rank, in the order of the ranks.

    Slurm takes it with ``SLURM_HOSTFILE=f srun --distribution=arbitrary``, Open MPI with
    ``--hostfile`` (a host that is listed again has one more slot).
    """
    lines = [node.host for node in instance.nodes for _ in node.devices]
    return ("\n".join(lines) + "\n").encode()


def rankfile(instance: Instance) -> bytes:
    """``rank 0=host slot=3`` for every rank, as Open MPI reads it.

    Open MPI binds a rank to the core of that number; here the number is also that of the
    device, which ``CUDA_VISIBLE_DEVICES`` of the launch line selects.
    """
    places = [(node.host, device) for node in instance.nodes for device in node.devices]
    lines = [f"rank {rank}={host} slot={device}" for rank, (host, device) in enumerate(places)]
    return ("\n".join(lines) + "\n").encode()


def host_names(chips: Sequence[str], given: Sequence[str]) -> dict[str, str]:
    """The user's name of every host of the machine, in the machine's order.

    Raises
    ------
    SpecError
        Fewer names than hosts, or a name twice.
    """
    hosts = list(dict.fromkeys(host_of(chip) for chip in chips))
    if not given:
        return {host: host for host in hosts}
    if len(given) < len(hosts):
        raise SpecError(
            f"--hosts: {len(given)} names for {len(hosts)} hosts",
            "write one name per line, in the order of the machine",
        )
    if len(set(given)) < len(given):
        twice = next(name for name in given if given.count(name) > 1)
        raise SpecError(f"--hosts: '{twice}' is there twice", "write each host once")
    return dict(zip(hosts, given, strict=False))


def renamed(instance: Instance, names: dict[str, str]) -> Instance:
    """The same instance on the user's hosts."""
    return Instance(nodes=tuple(replace(node, host=names[node.host]) for node in instance.nodes))


def host_sizes(chips: Sequence[str], names: dict[str, str]) -> dict[str, int]:
    """Chips of every host, by the user's names."""
    sizes = dict.fromkeys(names.values(), 0)
    for chip in chips:
        sizes[names[host_of(chip)]] += 1
    return sizes
