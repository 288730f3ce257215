"""Tables and sentences for the terminal, the notebooks and the README."""
