"""The sweep: every architecture of timm and torchvision, checked one by one.

``python -m bench.zoo --help`` lists the options. ``plan`` says which models there are, ``check``
judges one, ``pool`` runs many in processes that may die, ``ledger`` keeps what was found,
``report`` tells it, ``expected`` compares it with what was found before.
"""
