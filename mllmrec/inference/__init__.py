"""How what a policy says becomes a ranking: as it is, or the best, the commonest or the most varied of several answers."""
