"""Training layouts as records: composing them, checking them, saying why."""
