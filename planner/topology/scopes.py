"""The parts of a network that carry traffic, each small enough to compute with.

Two chips of one scale-up domain talk over the scale-up links of that domain; all others
talk over the links that are not scale-up. The two kinds of traffic share no link, and no
two domains do, so each part (*scope*) is computed by itself.

Who forwards: switches, NICs and hosts do. A chip does inside a domain, between two links
that both join it to another chip; between domains it never does. A chip is therefore up to
three *states*: ``PASS`` (traffic on its way), ``SEND`` (its own) and ``TAKE`` (for it).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np

from planner.errors import DisconnectedError
from planner.topology.network import Bools, Floats, Ints, Network
from planner.topology.refine import Adjacency, Hashes, adjacency, hash_columns
from planner.topology.traffic import Exchange, chip_places, group_labels

PASS, SEND, TAKE = range(3)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scope:
    """A part of a network and the chips that talk in it.

    Chip ``t`` receives from every chip of its group whose place is another.

    Parameters
    ----------
    nodes : array of int
        Shape ``[n]``: the network's nodes; all other arrays count nodes within the scope.
    links : array of int
        Shape ``[m]``: the network's links.
    ends, rates, hops, labels, direct : array
        Shape ``[m, ...]``; ``direct`` marks links over which chips forward, ``labels`` is a
        hash of all in which links differ.
    groups : array of int
        Shape ``[n]``: the group of a chip that talks, else -1.
    places : array of int
        Shape ``[n]``: chips of one place do not talk to each other in this scope.
    """

    network: Network
    nodes: Ints
    links: Ints
    ends: Ints
    rates: Floats
    hops: Ints
    labels: Hashes
    direct: Bools
    groups: Ints
    places: Ints

    @property
    def num_nodes(self) -> int:
        """Nodes of the scope."""
        return len(self.nodes)

    @property
    def num_links(self) -> int:
        """Links of the scope."""
        return len(self.links)

    @cached_property
    def talkers(self) -> Ints:
        """Chips that send and receive."""
        return np.flatnonzero(self.groups >= 0)

    @cached_property
    def num_groups(self) -> int:
        """Groups that talk."""
        return len(np.unique(self.groups[self.talkers]))

    @cached_property
    def is_chip(self) -> Bools:
        """Which nodes are chips, shape ``[n]``."""
        return self.nodes < self.network.num_chips

    @cached_property
    def graph(self) -> Adjacency:
        """The links by node."""
        return adjacency(self.num_nodes, self.ends)

    @cached_property
    def has_direct(self) -> Bools:
        """Nodes with a link over which chips forward."""
        flags = np.zeros(self.num_nodes, dtype=np.bool_)
        flags[self.ends[self.direct].reshape(-1)] = True
        return flags

    @cached_property
    def has_other(self) -> Bools:
        """Nodes with any other link."""
        flags = np.zeros(self.num_nodes, dtype=np.bool_)
        flags[self.ends[~self.direct].reshape(-1)] = True
        return flags

    @cached_property
    def is_split(self) -> Bools:
        """Chips whose own traffic may go where passing traffic may not."""
        return self.is_chip & (self.has_other | ~self.has_direct)

    def senders(self, nodes: Ints) -> Ints:
        """State in which chips send: ``state * num_nodes + node``."""
        states: Ints = nodes + self.num_nodes * np.where(self.is_split[nodes], SEND, PASS)
        return states

    def takers(self, nodes: Ints) -> Ints:
        """State in which chips receive."""
        states: Ints = nodes + self.num_nodes * np.where(self.is_split[nodes], TAKE, PASS)
        return states

    def states_of(self, tails: Ints, heads: Ints, links: Ints) -> tuple[Ints, Ints, Ints]:
        """Tail state, head state and index of what each arc is between states.

        An arc between split chips over a direct link becomes several: it may be the first
        or the last of a message, or neither.
        """
        n = self.num_nodes
        from_pass = ~self.is_split[tails] | (self.direct[links] & self.has_direct[tails])
        to_pass = ~self.is_split[heads] | (self.direct[links] & self.has_direct[heads])
        out = []
        for tail_state, tail_ok in ((PASS, from_pass), (SEND, self.is_split[tails])):
            for head_state, head_ok in ((PASS, to_pass), (TAKE, self.is_split[heads])):
                chosen = np.flatnonzero(tail_ok & head_ok)
                tail, head = tails[chosen] + tail_state * n, heads[chosen] + head_state * n
                out.append(np.stack((tail, head, chosen)))
        tail, head, index = np.concatenate(out, axis=1)
        return tail, head, index

    def unreachable(self, source: int, target: int) -> DisconnectedError:
        """The error of two chips without a path."""
        names = self.network.names
        a, b = names[self.nodes[source]], names[self.nodes[target]]
        return DisconnectedError(
            f"chips {a} and {b} are not connected",
            "leave one of them out of the group, or mend the links between them",
        )


def both(flags: Bools) -> Bools:
    """Whether both of two flags are set, for rows of flags of the ends of links."""
    return flags[:, 0] & flags[:, 1]


def _labels(network: Network, links: Ints) -> Hashes:
    return hash_columns(
        network.tiers[links], network.axes[links], network.hops[links], network.bytes_per_s[links]
    )


def _compact(network: Network, chosen: Bools, talkers: Ints) -> tuple[Ints, Ints, Ints]:
    """Links of a mask, their ends renumbered, and the nodes that touch them or talk."""
    links = np.flatnonzero(chosen)
    used = np.zeros(network.num_nodes, dtype=np.bool_)
    used[network.ends[links].reshape(-1)] = True
    used[talkers] = True
    nodes = np.flatnonzero(used)
    local = np.cumsum(used) - 1
    return links, local[network.ends[links]], nodes


def _without_dead_ends(num_nodes: int, ends: Ints, needed: Bools) -> Bools:
    """Links that are not part of a branch without chips that talk, shape ``[links]``."""
    alive = np.ones(len(ends), dtype=np.bool_)
    while True:
        degree = np.bincount(ends[alive].reshape(-1), minlength=num_nodes)
        dead = alive & ((degree == 1) & ~needed)[ends].any(axis=1)
        if not dead.any():
            return alive
        alive &= ~dead


def restrict(scope: Scope, group: int) -> Scope:
    """The same scope with one group only, without the links that it cannot use."""
    inside = scope.groups == group
    if inside[scope.talkers].all():
        return scope
    usable = inside | ~scope.is_chip | scope.has_direct
    alive = both(usable[scope.ends])
    kept = np.flatnonzero(alive)
    kept = kept[_without_dead_ends(scope.num_nodes, scope.ends[kept], inside | scope.has_direct)]
    used = inside.copy()
    used[scope.ends[kept].reshape(-1)] = True
    local = np.cumsum(used) - 1
    return replace(
        scope,
        nodes=scope.nodes[used],
        links=scope.links[kept],
        ends=local[scope.ends[kept]],
        rates=scope.rates[kept],
        hops=scope.hops[kept],
        labels=scope.labels[kept],
        direct=scope.direct[kept],
        groups=np.where(inside, scope.groups, -1)[used],
        places=scope.places[used],
    )


def outside_scope(network: Network, groups: tuple[Ints, ...]) -> Scope | None:
    """What carries the traffic between domains; None without such traffic."""
    label = group_labels(network, groups)
    place = chip_places(network)
    talks = np.zeros(network.num_chips, dtype=np.bool_)
    for group in groups:
        talks[group] = len(group) > 1 and bool((place[group] != place[group[0]]).any())
    talkers = np.flatnonzero(talks)
    if not len(talkers):
        return None
    usable = np.ones(network.num_nodes, dtype=np.bool_)
    usable[: network.num_chips] = talks
    chosen = ~network.scale_up & both(usable[network.ends])
    needed = ~usable
    needed[talkers] = True
    kept = np.flatnonzero(chosen)
    chosen[kept[~_without_dead_ends(network.num_nodes, network.ends[kept], needed)]] = False
    links, ends, nodes = _compact(network, chosen, talkers)
    chips = int(np.searchsorted(nodes, network.num_chips))
    no_chip = np.full(len(nodes) - chips, -1)
    return Scope(
        network=network,
        nodes=nodes,
        links=links,
        ends=ends,
        rates=network.bytes_per_s[links],
        hops=network.hops[links],
        labels=_labels(network, links),
        direct=np.zeros(len(links), dtype=np.bool_),
        groups=np.concatenate((label[nodes[:chips]], no_chip)),
        places=np.concatenate((place[nodes[:chips]], no_chip)),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Copies:
    """A scope and all domains that are the same to the last link.

    ``links`` has shape ``[copies, scope links]``: the network's links that stand where the
    scope's links stand; the first row are the scope's own.
    """

    scope: Scope
    links: Ints


def _pieces(network: Network, groups: tuple[Ints, ...]) -> Ints:
    """First chip of the piece (group within a domain) of each chip that talks in it, or -1."""
    label = group_labels(network, groups)
    domain = network.domains[: network.num_chips]
    chips = np.flatnonzero((label >= 0) & (domain >= 0))
    key = label[chips] * (int(domain.max(initial=0)) + 1) + domain[chips]
    _, first, inverse, counts = np.unique(
        key, return_index=True, return_inverse=True, return_counts=True
    )
    pieces = np.full(network.num_chips, -1, dtype=np.int64)
    pieces[chips] = np.where(counts[inverse] > 1, chips[first[inverse]], -1)
    return pieces


@dataclass(frozen=True, kw_only=True, eq=False)
class _Domains:
    """Links and nodes of all active domains, sorted by domain, numbered within each."""

    network: Network
    active: Ints
    links: Ints
    nodes: Ints
    first_link: Ints
    first_node: Ints
    local: Ints
    pieces: Ints
    direct: Bools

    def signatures(self) -> Hashes:
        """A hash per domain of all that can differ between two of them."""
        network, links, nodes = self.network, self.links, self.nodes
        domain_of = network.domains[network.ends[links, 0]]
        position = np.arange(len(links)) - self.first_link[domain_of]
        ends = self.local[network.ends[links]]
        rows = hash_columns(position, ends[:, 0], ends[:, 1], _labels(network, links))
        node_rows = hash_columns(self.local[nodes], self.pieces, network.kinds[nodes])
        return _sums(rows, self.first_link) + _sums(node_rows, self.first_node)

    def scope(self, domain: int) -> Scope:
        """One domain."""
        network = self.network
        links = self.links[self.first_link[domain] : self.first_link[domain + 1]]
        here = slice(self.first_node[domain], self.first_node[domain + 1])
        return Scope(
            network=network,
            nodes=self.nodes[here],
            links=links,
            ends=self.local[network.ends[links]],
            rates=network.bytes_per_s[links],
            hops=network.hops[links],
            labels=_labels(network, links),
            direct=self.direct[links],
            groups=self.pieces[here],
            places=np.arange(len(self.nodes[here])),
        )

    def copies(self, domains: Ints) -> Copies:
        """Domains of which all are like the first."""
        size = self.first_link[domains[0] + 1] - self.first_link[domains[0]]
        rows = self.first_link[domains][:, None] + np.arange(size)
        return Copies(scope=self.scope(int(domains[0])), links=self.links[rows])


def _active_domains(network: Network, piece: Ints) -> _Domains:
    """The domains in which chips talk, without what they cannot use.

    Raises
    ------
    ValueError
        A scale-up link leaves its domain.
    """
    end_domains = network.domains[network.ends[network.scale_up]]
    if (end_domains[:, 0] != end_domains[:, 1]).any() or (end_domains < 0).any():
        raise ValueError("a scale-up link must join two nodes of one domain")
    talkers = np.flatnonzero(piece >= 0)
    num_domains = int(network.domains.max()) + 1
    is_active = np.zeros(num_domains, dtype=np.bool_)
    is_active[network.domains[talkers]] = True
    direct = both(network.ends < network.num_chips) & network.scale_up
    usable = np.ones(network.num_nodes, dtype=np.bool_)
    usable[: network.num_chips] = piece >= 0
    usable[network.ends[direct].reshape(-1)] = True
    link_domain = network.domains[network.ends[:, 0]]
    chosen = network.scale_up & both(usable[network.ends]) & is_active[link_domain]
    links, _, nodes = _compact(network, chosen, talkers)
    links = links[np.argsort(link_domain[links], kind="stable")]
    nodes = nodes[np.argsort(network.domains[nodes], kind="stable")]
    borders = np.arange(num_domains + 1)
    first_node = np.searchsorted(network.domains[nodes], borders)
    local = np.zeros(network.num_nodes, dtype=np.int64)
    local[nodes] = np.arange(len(nodes)) - first_node[network.domains[nodes]]
    pieces = np.full(len(nodes), -1)
    talks = np.zeros(network.num_nodes, dtype=np.bool_)
    talks[talkers] = True
    pieces[talks[nodes]] = local[piece[nodes[talks[nodes]]]]
    return _Domains(
        network=network,
        active=np.flatnonzero(is_active),
        links=links,
        nodes=nodes,
        first_link=np.searchsorted(link_domain[links], borders),
        first_node=first_node,
        local=local,
        pieces=pieces,
        direct=direct,
    )


def inside_scopes(
    network: Network, groups: tuple[Ints, ...], *, merge: bool = True
) -> list[Copies]:
    """What carries the traffic inside domains, equal domains together if ``merge``."""
    piece = _pieces(network, groups)
    if not (piece >= 0).any():
        return []
    domains = _active_domains(network, piece)
    active = domains.active
    if not merge:
        return [domains.copies(active[i : i + 1]) for i in range(len(active))]
    _, first, inverse = np.unique(
        domains.signatures()[active], return_index=True, return_inverse=True
    )
    return [domains.copies(active[inverse == kind]) for kind in np.argsort(first)]


def _sums(rows: Hashes, firsts: Ints) -> Hashes:
    """Sum modulo 2**64 of the rows of each domain, zero for domains without rows."""
    total = np.zeros(len(rows) + 1, dtype=np.uint64)
    np.cumsum(rows, out=total[1:])
    out: Hashes = total[firsts[1:]] - total[firsts[:-1]]
    return out


@dataclass(frozen=True, kw_only=True, eq=False)
class ExchangeScopes:
    """Where the traffic of an exchange goes; ``outside`` is None without such traffic."""

    outside: Scope | None
    inside: tuple[Copies, ...]


@lru_cache(maxsize=4)
def exchange_scopes(network: Network, exchange: Exchange) -> ExchangeScopes:
    """Scopes of an exchange; the routing and the bound of one exchange share them."""
    return ExchangeScopes(
        outside=outside_scope(network, exchange.groups),
        inside=tuple(inside_scopes(network, exchange.groups)),
    )
