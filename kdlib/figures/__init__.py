"""One function for each figure; tidy table in, figure out."""
