"""Files in, records out: machines, model configurations, router statistics."""
