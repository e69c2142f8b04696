-- Everything that is kept of a strategy but its intents.
--
-- KEYS  state, missed, slots, floor of the slots
-- Returns how many there were.

return redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
