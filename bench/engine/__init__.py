"""The bench: what explanations cost beside plain inference, and beside other libraries.

``python -m bench.engine --help`` lists the options. ``cases`` says what is measured and what is to
be reached, ``contenders`` and ``peers`` do it, ``timing`` takes the time of all of them in turn,
``memory`` and ``cold`` measure in processes of their own, ``report`` tells.
"""
