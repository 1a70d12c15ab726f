"""What is trained, one LightningModule per stage: warm-up on item ids, SFT, GRPO."""
