"""What all interfaces of the app share: request forms, photos, files, errors, the log."""
