"""Plausible wrong answers without a network: the `rules` injector.

lexicon (the nouns we know) -> corpus (what occurs with what) -> objects,
attributes, relations, replies (kinds of edits) -> injector (which of them an
answer gets). Everything is a pure function of (corpus, sample, seed).
"""
