"""Subcommands with a module each: `commands/NAME.py` offers `command`, and `cli.LAZY` names it."""
