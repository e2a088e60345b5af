"""Networks, hubs, servers and browsers that tests use."""
