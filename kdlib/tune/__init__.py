"""Knobs of students, searched for two aims at once, then judged on fresh seeds."""
