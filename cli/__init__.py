"""The `hearth` command: an HTTP client of the gateway, plus `hearth up`."""
