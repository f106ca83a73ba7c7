"""Thoughts are not the answer, however a model marks them."""

import pytest

from povid_jax.llm.thoughts import strip_thoughts


@pytest.mark.parametrize(
  ("text", "answer"),
  [
    ("A dog.", "A dog."),
    ("<think>A cat?\nNo.</think>\n\nA dog.", "A dog."),
    ("\n<Thinking effort=3>x</Thinking> A dog.", "A dog."),
    ("<think>a</think><think>b</think>A dog.", "A dog."),
    ("A cat? No.\n</think>\nA dog.", "A dog."),
    ("[THINK]x[/THINK]A dog.", "A dog."),
    ("◁think▷x◁/think▷A dog.", "A dog."),
    ("<|begin_of_thought|>x<|end_of_thought|><|begin_of_solution|>A dog."
     "<|end_of_solution|>", "A dog."),
    ("<|channel|>analysis<|message|>x<|end|><|start|>assistant"
     "<|channel|>final<|message|>A dog.", "A dog."),
    ("<|start|>assistant<|channel|>analysis<|message|>x<|end|><|start|>assistant"
     "<|channel|>final<|message|>A dog.<|return|>", "A dog."),
    ("<think>x</think><answer>A dog.</answer>", "A dog."),
    ("<think>x</think><answer><|begin_of_box|>A dog.<|end_of_box|></answer>",
     "A dog."),
    ("<seed:think>x</seed:think>A dog.", "A dog."),
    ("<thinking_process>x</thinking_process>\nA dog.", "A dog."),
    ("<inner_monologue>x</inner_monologue>A dog.", "A dog."),
    ("<Rationale>x</Rationale>\n\nA dog.", "A dog."),
    ("<analysis>x", ""),
    ("<Thought>x</Thought>\n<Output>A dog.</Output>", "A dog."),
    ("<|START_THINKING|>x<|END_THINKING|><|START_RESPONSE|>A dog."
     "<|END_RESPONSE|>", "A dog."),
    ("<|START_THINKING|>x<|END_THINKING|><|START_RESPONSE|>A dog.", "A dog."),
    ("x<|END_THINKING|>A dog.", "A dog."),
    ("<|inner_prefix|>x<|inner_suffix|>A dog.", "A dog."),
    ("<unused94>thought\nx<unused95>A dog.", "A dog."),
    ("## Thinking\n\nx\n\n## Final Response\n\nA dog.", "A dog."),
    ("Here is my thought process:\nx\n\nHere is my response:\nA dog.",
     "A dog."),
    ("Here is my thought process:\nx and no end", ""),
    ("A thinking_cap lies on <analysis paper.",
     "A thinking_cap lies on <analysis paper."),
    ("<SUMMARY>s</SUMMARY>\n<CAPTION>A cat.</CAPTION>\n<REASONING>r</REASONING>"
     "\n<CONCLUSION>A dog.</CONCLUSION>", "A dog."),
    ("<SUMMARY>s</SUMMARY>\n<CAPTION>A cat. A cat.", ""),
    ("<summary>A dog.</summary>", "<summary>A dog.</summary>"),
    ("<think>cut off in the mid", ""),
    ("<think></think>", ""),
    ("The sign reads <think different>.", "The sign reads <think different>."),
    ("", ""),
  ],
)  # fmt: skip
def test_thoughts(text, answer):
  assert strip_thoughts(text) == answer
  assert strip_thoughts(answer) == answer


@pytest.mark.parametrize("mark", ["<think>", "[THINK]", "◁think▷"])
def test_many_marks_take_no_time(mark):
  assert strip_thoughts(mark * 3000) == ""
