"""Benchmarks: generate answers, score them, compare the scores."""
