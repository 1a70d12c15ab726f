"""Published systems as parts of a step: one module each, chosen as ``variant=NAME``."""
