"""What users call, and how the rooms are connected."""
