"""Maintenance: a host or a GPU closes for a time. What follows is shown first, then done as it was shown."""
