"""What LLaVA's evaluation adds to a question (its docs/Evaluation.md)."""

SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
CHOICE = "\nAnswer with the option's letter from the given choices directly."
ASKS_YES_NO = "Please answer yes or no."
