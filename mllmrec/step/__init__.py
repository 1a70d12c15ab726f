"""One step of learning from rollouts, independent of any trainer: rollouts → rewards → advantages → loss → updates."""
