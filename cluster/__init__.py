"""Other machines: discovery, peers, placement, links, trust; not built yet. Knows `node` and `protocol`."""
