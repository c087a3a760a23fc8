"""How a collective's time grows with its size: one curve per operation and machine.

    t = base + steps * step + x + 2 sqrt(fill * x)

``x`` is the time of the busiest link at its achieved bandwidth. A message is cut into
chunks that flow through the links one behind another: with ``k`` chunks it costs ``k`` times
the fixed cost of a chunk (``fill``) plus ``x / k`` until the last one has drained; the best
``k`` is ``sqrt(x / fill)``. ``steps`` is the number of dependent messages of the algorithm,
or of hops on a torus, and ``step`` what each of them costs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum


class Op(StrEnum):
    """Collective operations, with what ``num_bytes`` means for each (nccl-tests convention)."""

    ALL_REDUCE = "all_reduce"  # buffer of one chip
    ALL_GATHER = "all_gather"  # gathered result
    REDUCE_SCATTER = "reduce_scatter"  # input of one chip
    ALL_TO_ALL = "all_to_all"  # total send buffer of one chip, its own share included
    BROADCAST = "broadcast"  # message of the root
    SEND_RECV = "send_recv"  # message of one sender
    # An all_to_all by the kernels of a serving engine: tokens to experts and back.
    DISPATCH = "dispatch"  # as all_to_all; every copy of a token is counted
    COMBINE = "combine"


# Kernels that run an operation in another way than the collective library.
FUSED_ALL_REDUCE = "fused_all_reduce"  # one kernel of a serving engine reads all peers
IN_NETWORK_ALL_REDUCE = "in_network_all_reduce"  # switches add up (NVLS, SHARP)
KERNELS = (FUSED_ALL_REDUCE, IN_NETWORK_ALL_REDUCE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """Constants of one operation on one tier of links.

    Parameters
    ----------
    base_s : float
        Launch and synchronisation, paid once, inside a captured graph.
    step_s : float
        One dependent message, or one hop of a torus.
    fill_s : float
        Fixed cost of one chunk of the pipeline.
    derate : float
        Fraction of the nameplate bandwidth that a large message reaches, in (0, 1].
    """

    base_s: float
    step_s: float
    fill_s: float
    derate: float

    def seconds(self, steps: float, x_s: float) -> float:
        """Time of one call whose busiest link needs ``x_s`` seconds at ``derate``."""
        return self.base_s + steps * self.step_s + x_s + 2 * math.sqrt(self.fill_s * x_s)


PERFECT = Curve(base_s=0.0, step_s=0.0, fill_s=0.0, derate=1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """Curves of one tier: ``default`` speaks for the operations not listed.

    ``listed`` maps the value of an :class:`Op`, or a name of ``KERNELS``, to its curve.
    A kernel that is not listed does not exist on the machine.
    """

    default: Curve
    listed: tuple[tuple[str, Curve], ...] = ()

    def of(self, op: Op) -> Curve:
        """Curve of an operation of the library."""
        found = dict(self.listed)
        if op in (Op.DISPATCH, Op.COMBINE) and op.value not in found:
            return found.get(Op.ALL_TO_ALL.value, self.default)
        return found.get(op.value, self.default)

    def kernel(self, name: str) -> Curve | None:
        """Curve of another kernel, or None where the machine has none."""
        return dict(self.listed).get(name)


PERFECT_CURVES = Curves(default=PERFECT)
