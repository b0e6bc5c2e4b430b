"""One verification for equal rules: equal Services of a node, and equal nodes."""
