"""The audit log: recording, sealing, verifying."""
