"""Room 3, the forwarder: sends traces from the spool to their destinations. It alone uses the network."""
