"""The load test: many clients ask the running app for minutes, well and badly.

``python -m bench.load --clients 50 --seconds 300`` starts the app in a process of its own.
``world`` says what can be asked and what the right answers are, ``mix`` what clients do, ``client``
does it over plain HTTP, ``server`` starts the app and watches its memory, ``tally`` counts and
tells.
"""
