"""Runs as given, made ready for the cost model: what stands between a question and a price."""
