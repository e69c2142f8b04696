-- CANCELED, whoever holds the claim: the fence is bumped, so that a running attempt can write nothing any more.
-- Only where the table of states allows it, which is before SIGNED.
--
-- KEYS  intent, history, open, counts, budget, guard, flight, spent
-- ARGV  id, who, why, now ms
-- Returns {'ok', flat hash}, {'missing'} or {'illegal', state}.

local now = redis.call('HMGET', KEYS[1], 'state', 'reservation', 'guard')
local state = now[1]
if not state then
  return { 'missing' }
end
if not TRANSITIONS[state]['CANCELED'] then
  return { 'illegal', state }
end

local plan = {}
plan_release(plan, KEYS[5], changes_of(now[2]), false)
local guard = nil
if now[3] and now[3] ~= '' then
  guard = guards_at(KEYS[6], KEYS[7], KEYS[8], '', ARGV[4])
  guard_end(guard, ARGV[1], cjson.decode(now[3]), false)
end

redis.call('HSET', KEYS[1], 'state', 'CANCELED', 'updated_ms', ARGV[4], 'lease_until_ms', '0', 'lease_who', '',
  'reason', ARGV[3], 'attention', '', 'reservation', '', 'guard', '')
redis.call('HINCRBY', KEYS[1], 'fence', 1)
plan_apply(plan)
if guard then
  guard_apply(guard)
end
redis.call('ZREM', KEYS[3], ARGV[1])
history_append(KEYS[2], ARGV[4], ARGV[2], state, 'CANCELED', ARGV[3])
count_move(KEYS[4], state, 'CANCELED')
return { 'ok', redis.call('HGETALL', KEYS[1]) }
