"""Teacher and student measured by the same code; tables and pictures."""
