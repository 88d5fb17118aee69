"""Calendar feeds: making and revoking them, and what they hold."""
