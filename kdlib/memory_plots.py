"""Figures of the memorization lab: tidy table in, figure out. Style and colours are `plots`'.

Drawn in notebooks 09 and 11 to 13.
"""


