"""The load test: many clients send valid and invalid requests to the running app for minutes.

``python -m bench.load --clients 50 --seconds 300`` starts the app in a separate process. ``world``
defines the requests and the correct results, ``mix`` the actions of clients, ``client`` sends them
over plain HTTP, ``server`` starts the app and records its memory, and ``tally`` counts and reports
the results.
"""
