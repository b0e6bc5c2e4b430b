"""What each node does: a packet walked through its real rules."""
