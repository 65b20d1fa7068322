"""Contract suites for the four ports, and the pytest plugin that brings them."""
