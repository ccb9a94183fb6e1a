"""What runs inside a sandbox: shims, their images, and the registry of runtimes."""
