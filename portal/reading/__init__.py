"""The gateway for files of home volumes: passes on what a host reads to the browser that asked for it."""
