"""The object store, safe archives, and the cache of unpacked code."""
