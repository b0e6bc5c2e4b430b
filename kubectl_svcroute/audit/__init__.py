"""Audit a cluster: one node after another, then one report."""
