"""A checkpoint to one row of scores for each tuple."""
