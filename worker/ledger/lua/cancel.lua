-- CANCELED, whoever holds the claim: the fence is bumped, so that a running attempt can write nothing any more.
-- Only where the table of states allows it, which is before SIGNED.
--
-- KEYS  intent, history, open, counts, budget
-- ARGV  id, who, why, now ms
-- Returns {'ok', flat hash}, {'missing'} or {'illegal', state}.

local now = redis.call('HMGET', KEYS[1], 'state', 'reservation')
local state = now[1]
if not state then
  return { 'missing' }
end
if not TRANSITIONS[state]['CANCELED'] then
  return { 'illegal', state }
end

local plan = {}
plan_release(plan, KEYS[5], changes_of(now[2]), false)

redis.call('HSET', KEYS[1], 'state', 'CANCELED', 'updated_ms', ARGV[4], 'lease_until_ms', '0', 'lease_who', '',
  'reason', ARGV[3], 'attention', '', 'reservation', '')
redis.call('HINCRBY', KEYS[1], 'fence', 1)
plan_apply(plan)
redis.call('ZREM', KEYS[3], ARGV[1])
history_append(KEYS[2], ARGV[4], ARGV[2], state, 'CANCELED', ARGV[3])
count_move(KEYS[4], state, 'CANCELED')
return { 'ok', redis.call('HGETALL', KEYS[1]) }
