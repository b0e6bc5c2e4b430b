"""kubectl svcroute: does every node send every client of a Service to exactly the endpoints that it should?"""

from __future__ import annotations

__version__ = "0.1.0"
