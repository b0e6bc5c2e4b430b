"""Follow one packet through one node, and say why at each step."""
