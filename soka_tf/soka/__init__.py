"""The method: amalgamation, distillation, task weighting, the three-phase cycle."""
