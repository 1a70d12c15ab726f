"""GRPO's mathematics as pure functions over tensors, independent of trainers, tokenizers and config.

Letters: B prompts, G rollouts per prompt, R = B * G rows, T completion tokens.
"""
