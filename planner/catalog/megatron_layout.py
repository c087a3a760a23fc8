"""The grammar of ``--pipeline-model-parallel-layout`` (Megatron-LM core 0.20.0).

``E`` embedding, ``t`` decoder layer, ``m`` MTP layer, ``L`` loss; ``|`` ends a stage; ``X*n``
repeats one letter and ``(...)*n`` a group, which does not nest; commas are dropped. A stage may
be empty (``core/transformer/pipeline_parallel_layer_layout.py``).
"""

from __future__ import annotations

import re

_GROUP = re.compile(r"\(([^()]*)\)\*(\d{1,4})")
_LETTER = re.compile(r"([EtmL])\*(\d{1,4})")
_STAGES = re.compile(r"[EtmL|]*")
MAX_LENGTH = 100_000


def _repeated(text: str, pattern: re.Pattern[str]) -> str:
    """Write repetitions out; their length is looked at first."""
    grown = sum(len(m.group(1)) * int(m.group(2)) for m in pattern.finditer(text))
    if len(text) + grown > MAX_LENGTH:
        raise ValueError("is too long")
    return pattern.sub(lambda m: m.group(1) * int(m.group(2)), text)


def layers_of_layout(text: str) -> tuple[int, ...]:
    """Decoder layers of every stage.

    Raises
    ------
    ValueError
        The text is no layout: another letter, embedding not first, loss not last, or MTP layers
        before the last decoder layer or in two stages.
    """
    plain = re.sub(r"[,\s]", "", text)
    for pattern in (_GROUP, _LETTER):
        plain = _repeated(plain, pattern)
    if not _STAGES.fullmatch(plain):
        raise ValueError("has a letter other than E, t, m, L, or an open group")
    letters = plain.replace("|", "")
    if letters.count("E") != 1 or letters[:1] != "E":
        raise ValueError("does not start with one embedding E")
    if letters.count("L") != 1 or letters[-1:] != "L":
        raise ValueError("does not end with one loss L")
    if "m" in letters and "t" in letters[letters.index("m") :]:
        raise ValueError("has MTP layers m before the last decoder layer t")
    stages = plain.split("|")
    if sum("m" in stage for stage in stages) > 1:
        raise ValueError("has MTP layers m in two stages")
    return tuple(stage.count("t") for stage in stages)
