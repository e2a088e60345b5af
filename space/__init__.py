"""The web app over ``cam_hub``: a page, and endpoints for programs.

| package | one job |
|---|---|
| ``config`` | settings: flags, environment variables, limits |
| ``service`` | what all interfaces share: request forms, photos, result files, errors, the log |
| ``api`` | the endpoints for programs, one per file |
| ``components`` | components of the page and their HTML |
| ``page`` | panels and tabs, and the handlers of their events |
| ``app`` | ``create_app``, the request guard, MCP, sign-in |
| ``publish`` | ``python -m space.publish``: this repository as a Space on the Hub |

Packages import only from packages above their own in this table.
"""
