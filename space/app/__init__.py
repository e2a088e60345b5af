"""The web app: page and endpoints put together and guarded."""
