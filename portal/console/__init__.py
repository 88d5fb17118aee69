"""The console gateway: pairs a browser's WebSocket with the one that the host opens."""
