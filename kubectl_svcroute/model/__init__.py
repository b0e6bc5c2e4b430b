"""The vocabulary: frozen types that every stage speaks, from the standard library alone."""
