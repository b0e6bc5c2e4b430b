"""Expected and observed side by side: findings with codes."""
