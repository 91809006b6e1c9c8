"""How the documents become pages: `make docs`, mkdocs.yml."""
