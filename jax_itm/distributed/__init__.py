"""The mesh, and what several processes do together."""
