"""Teachers that are a folder: any SavedModel and a manifest, teacher.json."""
