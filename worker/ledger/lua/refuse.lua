-- Take a record that this program did not write out of the work. Budgets are left as they are: what it says is reserved
-- for it is somebody else's word, and too much stays reserved rather than too little. What may be out already is only
-- marked: it is followed to its end.
--
-- KEYS  intent, history, open, counts
-- ARGV  id, who, why, now ms, attention code
-- Returns {'refused', state}, {'marked', state} or {'missing'}.

local state = redis.call('HGET', KEYS[1], 'state')
if not state then
  redis.call('ZREM', KEYS[3], ARGV[1])
  return { 'missing' }
end
redis.call('HSET', KEYS[1], 'attention', ARGV[5], 'reason', ARGV[3], 'updated_ms', ARGV[4])
if state == 'SIGNED' or state == 'SUBMITTED' or FINAL[state] then
  return { 'marked', state }
end
redis.call('HSET', KEYS[1], 'state', 'REJECTED', 'lease_until_ms', '0', 'lease_who', '')
redis.call('HINCRBY', KEYS[1], 'fence', 1)
redis.call('ZREM', KEYS[3], ARGV[1])
history_append(KEYS[2], ARGV[4], ARGV[2], state, 'REJECTED', ARGV[3])
if TRANSITIONS[state] then
  count_move(KEYS[4], state, 'REJECTED')
end
return { 'refused', state }
