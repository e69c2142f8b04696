"""What a cron run turns into intents: the strategies file, fire times, and the transfer that each becomes."""
