"""What runs by itself: the strategies file, fire times, and the decisions that become intents."""
