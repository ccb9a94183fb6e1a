"""`make bench`: each value beside a floor that was measured in the same run."""
