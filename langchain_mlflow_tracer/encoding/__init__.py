"""Room 2, on the writer's thread: masks and encodes finished traces, and commits them to the spool."""
