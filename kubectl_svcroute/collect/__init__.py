"""Read the world: the API, the nodes, saved snapshots. The only stage that touches it."""
