"""An audit in parts: run a part, merge the parts, run them in the cluster."""
