"""The sweep: every architecture of timm and torchvision, checked one by one.

``python -m bench.zoo --help`` lists the options. ``plan`` lists the models, ``check`` checks one,
``pool`` runs many in processes that may crash, ``ledger`` stores the results, ``report`` renders
them, and ``expected`` compares them with earlier ones.
"""
