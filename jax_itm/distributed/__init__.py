"""Several devices and several processes: the mesh, cluster start-up, preflight checks, and the watchdog."""
