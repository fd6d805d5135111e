"""The command `doctor`: one file for each thing that is checked."""
