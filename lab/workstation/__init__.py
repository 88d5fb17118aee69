"""A Debian disk image as an operator would offer it: UEFI and BIOS, cloud-init, nothing of Leasehold's."""
