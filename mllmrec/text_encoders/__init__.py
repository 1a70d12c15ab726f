"""Texts as vectors. To add an encoder: one module here, one file in ``conf/text_encoder/``, one test."""
