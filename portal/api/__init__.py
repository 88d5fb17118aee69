"""The REST API: the same services as the pages, in JSON."""
