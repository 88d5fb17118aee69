"""Usage as files that other people's tools take, and as sums: one filter, one statement."""
