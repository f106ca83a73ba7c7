"""LLaVA-Instruct: correct answers only.

    {id, image, conversations}

haotian-liu/LLaVA, docs/Finetune_Custom_Data.md.
"""

import dataclasses

from povid_jax.data.formats import povid

FORMAT = dataclasses.replace(
  povid.FORMAT,
  name="llava",
  title="LLaVA-Instruct",
  keys=("conversations",),
  matches=lambda row: "conversations" in row,
  reads=povid.FORMAT.reads - {"rejected_conversations"},
)
