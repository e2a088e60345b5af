"""Settings of the app: flags, environment variables and limits."""
