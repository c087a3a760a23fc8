"""Frozen records that every other package speaks; no algorithms, no files, no solver."""
