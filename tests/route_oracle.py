"""Which links a message may use, pair by pair and as plainly as possible."""

from collections import defaultdict


def message_arcs(network, source, target):
    """Arcs ``(place, next place, link, direction)`` that a message may take, and its start.

    A place is (node, whether it was reached over a direct link): a chip on the way is left
    over a direct link only, and only if it was reached over one, inside a domain. The
    message ends at any place at the target.
    """
    chips = network.num_chips
    inside = network.domains[source] == network.domains[target] >= 0
    around = defaultdict(list)
    for link, (a, b) in enumerate(network.ends.tolist()):
        if bool(network.scale_up[link]) == inside:
            around[a].append((b, link, 0))
            around[b].append((a, link, 1))
    start = (source, None)
    arcs, found, queue = [], {start}, [start]
    for place in queue:
        node, came_directly = place
        if node == target:
            continue
        for other, link, direction in around[node]:
            direct = inside and node < chips and other < chips
            if place != start and node < chips and not (direct and came_directly):
                continue
            if other < chips and other != target and not direct:
                continue
            arcs.append((place, (other, direct), link, direction))
            if (other, direct) not in found:
                found.add((other, direct))
                queue.append((other, direct))
    return start, arcs
