"""The program that runs on a hypervisor. It imports hosts.protocol and third parties; no Django, no database."""
