"""The catalog, on each database that Hearth supports."""
