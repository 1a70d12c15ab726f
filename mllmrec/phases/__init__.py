"""The training phases, one LightningModule each: warm-up on item ids, SFT, GRPO and others."""
