"""Runs in, one self-contained HTML page out: `python -m povid_jax.report RUN`.

load (files to records) and scores (what they mean) -> results, captions,
training, data, provenance (a section each) -> page. charts draws SVG;
style.css is the look.
"""
