"""Degrees in one short line, for tables and CSV."""

from __future__ import annotations

from planner.domain.train_layout import TrainDegrees


def degrees_text(degrees: object) -> str:
    """Degrees as ``tp1 dp72 ep72 pp2``, those that split something, and what goes with them."""
    if isinstance(degrees, TrainDegrees):
        pairs = [
            *(("tp", degrees.tp), ("cp", degrees.cp), ("dp", degrees.dp), ("pp", degrees.pp)),
            *(("ep", degrees.ep), ("etp", degrees.expert_tp), ("zero", degrees.zero_stage)),
        ]
        words = [f"{name}{value}" for name, value in pairs if value > 1 or name == "zero"]
        return " ".join([*words, degrees.schedule.value])
    names = ("attn_tp", "cp", "attn_dp", "ep", "expert_tp", "pp", "replicas")
    words = [
        f"{name.removeprefix('attn_')}{getattr(degrees, name)}"
        for name in names
        if getattr(degrees, name) > 1
    ]
    return " ".join(words)
