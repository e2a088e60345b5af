"""Networks, hubs, servers and browsers for the tests."""
