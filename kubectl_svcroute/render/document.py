"""What every JSON document of this program begins with."""

API_VERSION = "svcroute/v1"
"""Fields are added to it and never renamed."""
