"""A local web page on an index."""
