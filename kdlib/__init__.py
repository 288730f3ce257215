"""kdlib: what a language model remembers of its fine-tuning data, and what distilling leaves behind."""
