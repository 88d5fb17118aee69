"""Builds the scrub machine's small operating system; what is in it is explained in README.md."""
