"""Raw files → interactions → samples → candidates.

To add a dataset, write one module here with one subclass of `mllmrec.data.base.Dataset`, one file in
``conf/dataset/`` and one test.
"""
