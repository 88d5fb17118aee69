"""`make demo`: everything on one machine, with real QEMU machines and simulated GPUs."""
