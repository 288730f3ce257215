"""Where rows come from, and what a seed draws."""
