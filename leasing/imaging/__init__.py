"""Images as files: uploaded, converted in a sandbox, kept by their digest, copied to hosts."""
