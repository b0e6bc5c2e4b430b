"""A second opinion: what kube-proxy programs for a cluster, written from its documentation alone and owing nothing to `expect/`.

It prints rule sets of kube-proxies that no capture holds. Where one does, `test_captures_agree.py` holds the print to it.
"""
