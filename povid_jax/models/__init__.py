"""LLaVA in Flax NNX: the only folder that knows network structure.

Dimension letters, used as suffixes of tensor names (`logits_BTV`):

  B batch   I images per sample   H, W height, width   P prefix length
  N branches (responses)   C branch length   T any sequence length
  D model width   F feed-forward width   K key/value heads   G query heads per
  key/value head   A head width   L layers   V vocabulary   R LoRA rank
"""
