"""Measure what a model costs here, and predict what it costs elsewhere."""
