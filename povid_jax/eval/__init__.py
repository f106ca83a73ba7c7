"""Benchmarks: asking a model, scoring its answers, comparing the scores."""
