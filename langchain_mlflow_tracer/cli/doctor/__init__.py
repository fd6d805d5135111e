"""The command `doctor`: one file for each thing that may be wrong."""
