"""A Debian disk image as an operator would offer it: UEFI, cloud-init, nothing of Leasehold's."""
