"""What an attacker or a reviewer finds in a model: scores, sets, attributes, and their figures."""
