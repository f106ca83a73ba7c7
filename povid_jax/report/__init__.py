"""Runs in, one self-contained HTML page out: `python -m povid_jax.report RUN`.

load (a run's files to records; with files, pictures) and scores (what they
mean) -> results, captions, training, data, provenance (a section each) -> page.
charts draws SVG; style.css is the look.
"""
