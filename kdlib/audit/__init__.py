"""The command `python -m kdlib audit`: any model and any file of tuples, streamed."""
