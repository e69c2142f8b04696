"""Trade intents: what is asked, amounts, and the state machine."""
