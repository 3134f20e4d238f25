"""Several devices and several processes: the mesh, how a run starts and checks itself, and the watchdog."""
