"""The pages: one module per page, each view fetches, authorises, and calls one service."""
