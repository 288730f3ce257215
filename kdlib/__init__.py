"""kdlib: what a model remembers of its fine-tuning data, and what distilling leaves behind."""
