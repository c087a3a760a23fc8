"""The model of the catalogue behind what an engine loads."""

from __future__ import annotations

from pathlib import Path

from planner.catalog.model_config import model_facts, model_names


def model_behind(named: str) -> str | None:
    """Catalogue name, or path, of what an engine was told to load; None where it is unknown.

    A path that exists is one; ``deepseek-ai/DeepSeek-V3`` is the model whose public name it
    is, or whose catalogue name is its last part.
    """
    known = model_names()
    if named in known or Path(named).exists():
        return named
    wanted = named.rstrip("/").casefold()
    last = wanted.rsplit("/", 1)[-1]
    if last in known:
        return last
    for name in known:
        meta = model_facts(name).get("_meta")
        public = meta.get("hf_id") if isinstance(meta, dict) else None
        if isinstance(public, str) and public.casefold() in (wanted, last):
            return name
    return None
