"""What each node should do, from the API objects, as kube-proxy itself thinks.

`endpoints.py` says which endpoints count where, `routes.py` which frontends a node has and where each client's packet
should go, `versions.py` what differs between the versions of kube-proxy, `names.py` what it calls its chains.
"""
