"""The engine benchmark: explanations compared with plain inference and with other libraries.

``python -m bench.engine --help`` lists the options. ``cases`` defines the measurements and goals,
``contenders`` and ``peers`` run them, ``timing`` times all of them in turn, ``memory`` and ``cold``
measure in separate processes, and ``report`` renders the results.
"""
