"""Raw files → interactions → samples → candidates.

To add a dataset: one module here with one subclass of `mllmrec.data.base.Dataset`, one file in
``conf/dataset/``, one test.
"""
