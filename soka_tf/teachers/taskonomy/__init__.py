"""Teachers that Taskonomy published: what their files are and how they are read."""
