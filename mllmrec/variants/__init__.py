"""Systems of the literature as parts of a step: one module each, chosen as ``variant=NAME``."""
