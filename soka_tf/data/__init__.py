"""Images and labels: procedural rooms, Taskonomy folders, any folder of images."""
