"""kubectl svcroute: does every node send every client of a Service to exactly the endpoints that it should?"""

from __future__ import annotations

__version__ = "0.1.0"

PLUGIN = "svcroute"
"""What users type behind `kubectl`: krew's name of the plugin. Every other name is made of it."""
PROGRAM = f"kubectl-{PLUGIN}"
"""The file that kubectl looks for on PATH."""
