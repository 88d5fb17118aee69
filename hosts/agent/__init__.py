"""The program that runs on a hypervisor. It imports hosts.protocol and third parties, and no Django."""
