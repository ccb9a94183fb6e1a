"""Background work: builds and sweeps, as RQ jobs."""
