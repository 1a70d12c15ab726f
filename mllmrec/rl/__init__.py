"""GRPO's mathematics as pure functions over tensors: nothing here knows of trainers, tokenizers or config.

Letters: B prompts, G rollouts per prompt, R = B * G rows, T completion tokens.
"""
