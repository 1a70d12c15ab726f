"""mllmrec: GRPO post-training of LLM recommenders on multimodal sequences."""

__version__ = "0.1.0"
