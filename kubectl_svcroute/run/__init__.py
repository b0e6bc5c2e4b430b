"""Run an audit for a command: choose, read, look twice, write, exit."""
