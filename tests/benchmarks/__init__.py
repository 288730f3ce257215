"""A package, so that none of that name that a library installs (opacus does) takes its place."""
