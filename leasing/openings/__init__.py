"""Openings: when GPUs are free together. Kept in a table, so that every search is a few index probes."""
