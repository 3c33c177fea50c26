"""The laboratory: throw-away hosts, links, guests, clients and faults on one machine."""
