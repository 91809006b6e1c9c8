"""How the small teachers for the procedural rooms are trained and measured."""
