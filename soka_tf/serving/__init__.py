"""The trained student as a SavedModel that needs no soka_tf to load."""
