"""The domain: tenants, booking, lifecycles, metering, proof. No HTTP and no libvirt."""
