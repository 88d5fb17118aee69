"""Letting hypervisors in, giving them new keys and names, and letting them go."""
