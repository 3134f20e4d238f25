"""Tables and figures of runs and data sets."""
