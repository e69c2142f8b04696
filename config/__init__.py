"""Settings, Celery's settings, logging, and the files of Redis and Vault."""
