"""Runs in, one self-contained HTML page out: `python -m povid_jax.report RUN`.

load (files to records) -> results, captions, training, data, provenance (each
one section of the page) -> page. charts draws SVG; style.css is the look.
"""
