"""What the user asked for, and where traces go: arguments, environment variables, defaults."""
