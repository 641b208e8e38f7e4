"""The documentation site: pages, notebooks, model cards and API from one source each.

``python -m website build`` gathers the pages of ``docs/``, what they include from elsewhere in the
repository and what is generated, in a temporary folder, and has them built there; the pictures and
the notebooks' outputs are made by ``python -m website pictures`` and ``notebooks`` and committed.
"""
