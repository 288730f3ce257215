"""One model of the study from base weights to measurements."""
