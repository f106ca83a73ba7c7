"""Answers of a model about pictures, sentence by sentence, and their pairs."""
