"""Random histories of one host, on the agent's own code, in which everything goes wrong that can."""
