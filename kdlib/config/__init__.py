"""What a run is: sections of a profile, methods and templates, all of it data."""
