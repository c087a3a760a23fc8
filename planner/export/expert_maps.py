"""Expert copies in each engine's own file form, from one canonical map.

The canonical map is ``{model layer: [ep rank][slot] -> expert}`` over the MoE layers in model
order. Engines count layers differently:

====================  =======================================================================
SGLang 0.5.23         ``physical_to_logical_map``, a row for **every** hidden layer; rows of
                      dense layers are not used and hold ``p % E`` (``expert_location.py``)
TensorRT-LLM 1.3      ``initial_global_assignments``, keys are model layers, MoE layers only
                      (``examples/wide_ep/ep_load_balancer``)
vllm-ascend 0.23.0    ``layer_list``, read by position among the MoE layers
                      (``eplb/core/eplb_utils.py``)
vLLM 0.33.0           takes no fixed map; what it takes is the number of redundant experts
====================  =======================================================================

All of them give slot ``p`` to rank ``p // (P / ep)``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from planner.domain.deployment import ExpertFormat
from planner.errors import SpecError
from planner.export.kubernetes import yaml_text
from planner.export.layout_file import record_json

Rows = Mapping[int, tuple[tuple[int, ...], ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class CanonicalMap:
    """Expert of every slot.

    Parameters
    ----------
    rows : mapping
        ``{model layer: [ep rank][slot]}``, in the order of the model.
    num_layers : int, optional
        Hidden layers of the model; known for layouts, not for placements alone.
    """

    rows: Rows
    num_experts: int
    num_layers: int | None = None

    @property
    def ep(self) -> int:
        """Expert ranks."""
        return len(next(iter(self.rows.values())))

    @property
    def num_slots(self) -> int:
        """Slots of a layer."""
        return sum(len(held) for held in next(iter(self.rows.values())))


def check_map(found: CanonicalMap, target: str) -> None:
    """Refuse a map that no engine takes.

    Raises
    ------
    SpecError
        A layer has unequal ranks or other numbers of slots, an expert is missing, or a rank
        holds one twice.
    """
    if not found.rows:
        raise SpecError(f"{target}: there are no experts to place", "name a layout with experts")
    for layer, row in found.rows.items():
        widths = sorted({len(held) for held in row})
        if len(widths) > 1 or len(row) != found.ep or widths[0] * found.ep != found.num_slots:
            raise SpecError(
                f"{target}: layer {layer} has {widths[0]} to {widths[-1]} slots per rank; the "
                "engine has equally many on each",
                f"plan with slots that divide by EP {found.ep}; 'planner export --to sglang' "
                "finds the nearest layout and its cost",
            )
        counts = Counter(expert for held in row for expert in held)
        missing = [e for e in range(found.num_experts) if not counts[e]]
        if missing:
            raise SpecError(f"{target}: layer {layer} has no copy of expert {missing[0]}")
        if any(len(set(held)) < len(held) for held in row):
            raise SpecError(f"{target}: layer {layer} has an expert twice on one rank")


def _flat(row: tuple[tuple[int, ...], ...]) -> list[int]:
    return [expert for held in row for expert in held]


def sglang_map(found: CanonicalMap) -> bytes:
    """``--init-expert-location`` file; the map must be its only key.

    Raises
    ------
    SpecError
        The number of hidden layers is not known.
    """
    if found.num_layers is None:
        raise SpecError(
            "experts-sglang: rows are needed for all hidden layers of the model",
            "write --model, or export a layout",
        )
    dense = [slot % found.num_experts for slot in range(found.num_slots)]
    table = [
        _flat(found.rows[layer]) if layer in found.rows else dense
        for layer in range(found.num_layers)
    ]
    return record_json({"physical_to_logical_map": table})


def trtllm_map(found: CanonicalMap) -> bytes:
    """``moe_config.load_balancer`` file with a static placement."""
    lines = [f"num_slots: {found.num_slots}", "initial_global_assignments:"]
    for layer, row in found.rows.items():
        lines.append(f"  {layer}: [{', '.join(map(str, _flat(row)))}]")
    lines.append("layer_updates_per_iter: 0")
    return ("\n".join(lines) + "\n").encode()


def ascend_map(found: CanonicalMap) -> bytes:
    """``eplb_config.expert_map_path`` file of vllm-ascend."""
    layers = [
        {
            "layer_id": position,
            "device_count": found.ep,
            "device_list": [
                {"device_id": rank, "device_expert": list(held)} for rank, held in enumerate(row)
            ],
        }
        for position, row in enumerate(found.rows.values())
    ]
    return record_json({"moe_layer_count": len(layers), "layer_list": layers})


def vllm_config(found: CanonicalMap) -> bytes:
    """What vLLM takes of a placement: a file for ``vllm serve --config``."""
    extra = found.num_slots - found.num_experts
    return yaml_text(
        {
            "enable-expert-parallel": True,
            "enable-eplb": True,
            "eplb-config": {"num_redundant_experts": extra},
        }
    )


WRITERS = {
    ExpertFormat.SGLANG: sglang_map,
    ExpertFormat.TRTLLM: trtllm_map,
    ExpertFormat.ASCEND: ascend_map,
    ExpertFormat.VLLM: vllm_config,
}
FILE_NAMES = {
    ExpertFormat.SGLANG: "experts.json",
    ExpertFormat.TRTLLM: "experts.yaml",
    ExpertFormat.ASCEND: "experts-ascend.json",
    ExpertFormat.VLLM: "experts-vllm.yaml",
}
VLLM_NOTE = (
    "no released vLLM takes a fixed map of experts (0.33.0 rejects every form of it): the file "
    "says how many redundant experts there are, and EPLB places them"
)
