"""Fixtures of the tests of the reading of nodes."""

from sshd import ssh_lab

__all__ = ["ssh_lab"]
