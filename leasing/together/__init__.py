"""What people of one tenant do with a lease together: share it, hand it over, leave notes on it."""
