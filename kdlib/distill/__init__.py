"""Training: whose text is read, what is minimized, one loop."""
