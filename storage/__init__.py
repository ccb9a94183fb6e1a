"""The object store, its two implementations, safe archives, and the node's cache of unpacked code."""
