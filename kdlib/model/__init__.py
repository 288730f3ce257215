"""Tokens, checkpoints, and text from a model."""
