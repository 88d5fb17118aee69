"""A stock Debian hypervisor in emulation, with an IOMMU and three GPUs: the real code path, without one."""
